"""Batch norm between domains and processes: statistics for each domain, of all processes, frozen, re-estimated.

Domain-specific batch norm: Chang et al., CVPR 2019. Re-estimation (AdaBN): Li et al., 2016; of one image, mixed with
what was learnt: Schneider et al., NeurIPS 2020.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn

from models.attention import PREFIX, Attention
from models.synchronised import SynchronisedBatchNorm


class DomainBatchNorm(nn.Module):
    """A BatchNorm2d for each domain, all with the same weight and bias; `domain` names the one in use."""

    def __init__(self, norm: nn.BatchNorm2d, domains: tuple[str, ...]):
        super().__init__()
        self.domain = domains[0]
        self.norms = nn.ModuleDict({domain: _twin(norm) for domain in domains})

    def forward(self, features: Tensor) -> Tensor:
        return self.norms[self.domain](features)


class SourceAndTarget(nn.Module):
    """All passes of an adaptation step as one module, so that DDP sees one forward and reduces once.

    forward(source, target, ...) takes image batches (N, 1, H, W), one of the source and one or more of the target, and
    returns the output of each, logits by level, computed under its own domain's statistics where the model has them.
    Of several batches of the target only the first adds to its running statistics: the others are views, such as tiles
    with hidden blocks, that no micrograph looks like. The model is left on domain 'target'.
    """

    def __init__(self, model: nn.Module, compiled: bool = False):
        super().__init__()
        self.model = torch.compile(model, dynamic=False) if compiled else model

    def forward(self, source: Tensor, target: Tensor, *views: Tensor) -> tuple[dict[str, Tensor], ...]:
        set_domain(self.model, "source")
        source_logits = self.model(source)
        set_domain(self.model, "target")
        target_logits = self.model(target)
        with _statistics_kept(self.model):
            return source_logits, target_logits, *map(self.model, views)


def domain_batch_norm(model: nn.Module, domains: tuple[str, ...] = ("source", "target")) -> nn.Module:
    """Give every batch norm of `model` running statistics for each domain, in place; returns the model.

    The affine part stays shared: the same Parameter objects. All domains start from the present statistics; the
    first domain is set.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, DomainBatchNorm(child, domains))
    return model


def set_domain(model: nn.Module, domain: str) -> None:
    """Choose whose running statistics are used and updated, and if an attention acts, which it does for the target.

    No effect on a model with only one set and no attention.
    """
    for module in model.modules():
        if isinstance(module, DomainBatchNorm | Attention):
            module.domain = domain


def domain_in_use(model: nn.Module) -> str | None:
    """Name of the domain that `set_domain` chose last; None for a model with only one set of statistics."""
    return next((module.domain for module in model.modules() if isinstance(module, DomainBatchNorm)), None)


def without_domains(state: dict[str, Tensor], domain: str = "source") -> dict[str, Tensor]:
    """The state dict for a model without per-domain statistics: `domain`'s are kept, others dropped.

    So is an attention, without which the model does to the source what it did.
    """
    plain = {}
    for key, value in state.items():
        if key.startswith(PREFIX):
            continue
        before, marker, after = key.rpartition(".norms.")
        owner, _, rest = after.partition(".")
        if not marker:
            plain[key] = value
        elif owner == domain:
            plain[f"{before}.{rest}"] = value
    return plain


def synchronise_batch_norm(model: nn.Module, group: torch.distributed.ProcessGroup) -> None:
    """Make every batch norm of `model`, in place, take its statistics over the batches of all processes of a group.

    Every process must give equally many tiles of equal size. Call it after the conversion to per-domain statistics.
    Parameters, statistics and the state dict stay what they are.
    """
    SynchronisedBatchNorm.group = group
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SynchronisedBatchNorm


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch norms normalise a training batch by its own statistics, and leave their running ones as they are."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def freeze_batch_norm(model: nn.Module) -> None:
    """Use running statistics and never update them, whatever model.train() says; weight and bias still learn.

    Call it after the conversion to per-domain statistics, which builds new modules.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = MethodType(_stay_in_evaluation, module)
            module.eval()


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """AdaBN: replace the current domain's running statistics by the average of those of `batches`.

    batches: images (N, 1, H, W) as the model takes them, on its device. Modes and momenta are restored.
    """
    norms = _norms_in_use(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.training = True  # not train(), which a frozen norm ignores
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes:
        module.training = mode


@torch.no_grad()
def mix_statistics(model: nn.Module, batches: Iterable[Tensor], share: float) -> None:
    """Mix the statistics of `batches` into the current domain's running ones, of which 1 - `share` stays, in place.

    Means and variances are mixed linearly (Schneider et al., NeurIPS 2020), and the mixture is what the layers after it
    get to see already. batches: images (N, 1, H, W) as the model takes them, on its device; each weighs the same. The
    model is left in evaluation mode. ValueError where a batch norm gets one value a channel.
    """
    norms = _norms_in_use(model)
    learnt = {norm: (norm.running_mean.clone(), norm.running_var.clone()) for norm in norms}
    met = {norm: [] for norm in norms}

    def mix(norm: nn.Module, statistics: Iterable[Tensor]) -> None:
        for running, own, new in zip((norm.running_mean, norm.running_var), learnt[norm], statistics, strict=True):
            running.copy_(own.lerp(new, share))

    def meet(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            raise ValueError(f"expected more than 1 value per channel, got an input of {tuple(inputs[0].shape)}")
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        met[norm].append((mean, variance))
        mix(norm, met[norm][-1])

    hooks = [norm.register_forward_pre_hook(meet) for norm in norms]
    model.eval()
    for images in batches:
        model(images)
    for hook in hooks:
        hook.remove()
    for norm, of_batches in met.items():
        mix(norm, [torch.stack(values).mean(0) for values in zip(*of_batches, strict=True)])


@torch.no_grad()
def take_statistics(model: nn.Module, other: nn.Module, domains: tuple[str, ...]) -> None:
    """Copy the running statistics of these domains from another model of the same layout, in place."""
    for own, others in zip(model.modules(), other.modules(), strict=True):
        if isinstance(own, DomainBatchNorm):
            for domain in domains:
                for buffer, new in zip(own.norms[domain].buffers(), others.norms[domain].buffers(), strict=True):
                    buffer.copy_(new)


def _norms_in_use(model: nn.Module) -> list[nn.Module]:
    idle = {
        id(norm)
        for module in model.modules()
        if isinstance(module, DomainBatchNorm)
        for domain, norm in module.norms.items()
        if domain != module.domain
    }
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and id(module) not in idle]


def _twin(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    twin = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    twin.load_state_dict(norm.state_dict())
    twin.weight, twin.bias = norm.weight, norm.bias
    return twin.to(norm.weight.device).train(norm.training)


def _stay_in_evaluation(norm: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(norm, False)
