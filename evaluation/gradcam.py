"""Grad-CAM of a phase: where a model looks (Selvaraju et al., ICCV 2017; paper Section 4.2, Figure 7)."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

import models
from common.errors import InputError, make_folder
from common.files import write_array, write_file
from data.store import Store, phase_of
from evaluation.figures import annotation, heat, legend_of, panel
from evaluation.inference import predict
from evaluation.members import Member
from evaluation.scoring import panel_positions
from models.deeplabv2 import upsample

LARGEST = 1536  # px; a larger micrograph is looked at in its middle, because all of it is in memory at once


def default_layer(model: torch.nn.Module) -> str:
    """The layer to look at: ResNet's layer3, or the layer at that depth in other networks.

    The study's Figure 7 looks at layer 3_16, one of layer3's blocks.
    """
    if hasattr(model, "decoder"):
        return "decoder.1"  # at layer3's stride, 8
    return "backbone.layer3" if hasattr(model.backbone, "layer3") else "backbone.stage2"


def find_layer(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module of that name. InputError lists the names that exist."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = sorted({".".join(path.split(".")[:2]) for path, _ in model.named_modules() if "." in path})
        raise InputError(f"--layer {name}: the model has no such layer. It has {', '.join(known)}.") from None


def phase_map(
    model: torch.nn.Module,
    layer: torch.nn.Module,
    image: np.ndarray,
    where: np.ndarray,
    overlap: int,
    device: torch.device | str = "cpu",
    phase: int = 1,
) -> np.ndarray:
    """Grad-CAM float32 (h, w), from 0 upwards, nan outside the middle of a micrograph that is larger than LARGEST.

    The target is the sum of a phase's logits over where it is predicted: `where` (h, w), 1 there.
    The layer's activations are weighted by the target's mean gradient, summed, and cut at zero. They are not scaled,
    so that maps of one model on several micrographs compare. image: uint8 (h, w), mirrored by `overlap` pixels at its
    edges, as in inference. model: in eval mode, without gradients of its parameters.
    """
    cut = tuple(slice((side - min(side, LARGEST)) // 2, (side + min(side, LARGEST)) // 2) for side in image.shape)
    padded = np.pad(image[cut], overlap, mode="reflect")
    chosen = torch.from_numpy(np.pad(where[cut], overlap)).to(device)
    pixels = torch.from_numpy(padded)[None, None].to(device)

    # The graph begins at the layer: what is before it needs no memory for gradients.
    begins = layer.register_forward_hook(lambda _module, _inputs, output: output.detach().requires_grad_())
    try:
        from captum.attr import LayerGradCam  # slow to import, and evaluate.py mostly does without

        cam = LayerGradCam(
            lambda images: (models.logits_of(model(images)["main"], phase) * chosen).sum(dim=(1, 2)), layer
        )
        found = cam.attribute(pixels, relu_attributions=True).detach()
    finally:
        begins.remove()
    fine = _at_full_size(model, found, padded.shape)[0, 0].cpu().numpy()
    inner = tuple(slice(overlap, side - overlap) for side in padded.shape)
    whole = np.full(image.shape, np.nan, np.float32)
    whole[cut] = fine[inner]
    return whole


def write_maps(
    member: Member,
    store: Store,
    micrographs: list[int],
    folder: Path,
    layer_name: str | None,
    device: torch.device | str,
    phase_name: str | None = None,
) -> None:
    """Write gradcam/ into a score's folder, for the micrographs that have panels; of a named phase gradcam.<phase>/.

    <micrograph>.npy is the map, float32 at working scale; <micrograph>.png shows it beside the label; gradcam.json
    names layer, checkpoint and micrographs. InputError for a phase that there is not.
    """
    phase = phase_of(phase_name, store.classes)
    model = member.model.requires_grad_(False)
    name = layer_name or default_layer(model)
    layer = find_layer(model, name)
    out = make_folder(folder / (f"gradcam.{phase_name}" if phase_name else "gradcam"))
    preparation = member.preparation
    chosen = [micrographs[k] for k in panel_positions(len(micrographs))]
    for m in chosen:
        image = member.seen(store.image(m))
        label = cv2.resize(store.mask(m), image.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        cut = (preparation["tile"], preparation["overlap"])
        predicted = models.classes(predict(model, image, *cut, device))
        found = phase_map(model, layer, image, predicted == phase, preparation["overlap"], device, phase)
        title = store.micrographs[m].name
        write_array(out / f"{title}.npy", found)
        top = np.nanmax(found)
        columns = [
            (f"Grad-CAM at {name}, up to {top:.3g}", heat(image, found, top)),
            (f"micrograph {title}, label", annotation(image, label, store.classes)),
        ]
        panel(out / f"{title}.png", columns, legend_of(store.classes, label=True))
    names = [store.micrographs[m].name for m in chosen]
    facts = {"layer": name, "checkpoint": member.label, "step": member.step, "micrographs": names}
    facts |= {"phase": phase_name} if phase_name else {}
    write_file(out / "gradcam.json", json.dumps(facts, indent=2) + "\n")
    print(f"{out}: Grad-CAM at {name} of {len(names)} micrographs")


def _at_full_size(model: torch.nn.Module, grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A layer's grid (1, 1, h, w) at the size of its input, as the network itself places its cells."""
    stride = round(size[0] / grid.shape[-2])
    if isinstance(model, models.DeepLabV2):
        return upsample(grid, stride, size)  # strided convolutions: cell i is centred on pixel i * stride
    return torch.nn.functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
