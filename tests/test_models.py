"""The contract of every network, and the properties of heads, batch norm and pre-training."""

import copy
import urllib.request

import pytest
import torch
from torch import nn
from torchvision.models import resnet

import models
from common.errors import InputError
from models.batchnorm import DomainBatchNorm
from models.deeplabv2 import DilatedHead, upsample
from training.weights import load_pretraining


def images(count=2, height=65, width=81, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, height, width), dtype=torch.uint8, generator=generator)


def scalar(*outputs):
    return sum(level.square().mean() for logits in outputs for level in logits.values())


def small(domains=False):
    torch.manual_seed(0)
    model = models.build("deeplabv2_small")
    return models.domain_batch_norm(model) if domains else model


def domain_norms(model):
    return [module for module in model.modules() if isinstance(module, DomainBatchNorm)]


def statistics(model, domain=None):
    """Copy the running means of a model's norms, those of one domain where it has several."""
    if domain is not None:
        return [norm.norms[domain].running_mean.clone() for norm in domain_norms(model)]
    return [module.running_mean.clone() for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", models.MODELS)
def test_contract(name):
    torch.manual_seed(0)
    model = models.build(name)
    batch = images()

    scalar(model(batch)).backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent

    backbone, heads = models.parameter_groups(model, learning_rate=1e-3)
    assert heads["lr"] == 1e-3 and heads["lr"] / backbone["lr"] == pytest.approx(10)
    grouped = [id(parameter) for group in (backbone, heads) for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}
    assert backbone["params"] and heads["params"]

    model.eval()
    twin = models.build(name).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits, from_float = model(batch), twin(batch.float())
        with torch.autocast("cpu", torch.bfloat16):
            smallest = model(images(1, 33, 34))
    for level, of_level in logits.items():
        assert of_level.shape == batch.shape and of_level.dtype == torch.float32
        assert torch.equal(of_level, from_float[level])
    assert smallest["main"].shape == (1, 1, 33, 34) and smallest["main"].dtype == torch.float32
    assert tuple(logits) == model.levels and model.levels[0] == "main"
    model.attend()
    with torch.no_grad():  # DAST's, on the features that the main head takes
        assert tuple(model.train()(batch)) == (*model.levels, "feature")


def test_the_head_is_the_sum_of_its_dilated_convolutions():
    head = DilatedHead(20)
    features, upstream = torch.randn(2, 20, 31, 27), torch.randn(2, 1, 31, 27)
    outcomes = []
    for forward in (head, lambda maps: sum(branch(maps) for branch in head.branches)):
        inputs = features.clone().requires_grad_()
        logits = forward(inputs)
        outcomes.append([logits, *torch.autograd.grad(logits, [inputs, *head.parameters()], upstream)])
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_all_four_dilations_act():
    head = small().main_head
    features = torch.randn(1, 96, 60, 60)
    whole = head(features)
    assert [branch.dilation[0] for branch in head.branches] == [6, 12, 18, 24]
    assert not any(branch.bias.any() for branch in head.branches)
    for branch in head.branches:
        kept = branch.weight.detach().clone()
        nn.init.zeros_(branch.weight)
        assert not torch.allclose(head(features), whole)
        branch.weight.data.copy_(kept)


def test_upsampling_keeps_every_cell_at_its_centre():
    logits = torch.randn(1, 1, 9, 8)
    fine = upsample(logits, stride=8, size=(66, 64))
    assert fine.shape == (1, 1, 66, 64)
    torch.testing.assert_close(fine[..., ::8, ::8], logits)


@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
def test_backbone_is_torchvisions_only_denser(depth, tmp_path, capsys):
    torch.manual_seed(0)
    network = getattr(resnet, depth)(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    model = models.build(f"deeplabv2_{depth}").eval()
    load_pretraining(model, f"deeplabv2_{depth}", str(tmp_path / "weights.pth"))
    assert "fc.weight" in capsys.readouterr().out

    batch = model.normalise(images(1, 70, 97))
    with torch.no_grad():
        aux_features, features = model.backbone(batch)
        strided = nn.Sequential(*list(network.children())[:-2])
        torch.testing.assert_close(features[..., ::4, ::4], strided(batch), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(aux_features[..., ::2, ::2], strided[:-1](batch), rtol=1e-3, atol=1e-3)
        if depth == "resnet50":
            dilated = resnet.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
            dilated.load_state_dict(network.state_dict())
            assert torch.equal(features, nn.Sequential(*list(dilated.children())[:-2])(batch))


def test_domains_keep_their_own_statistics():
    model = small(domains=True).train()
    before = {domain: statistics(model, domain) for domain in ("source", "target")}
    assert equal(before["source"], before["target"])
    model(images(seed=1))  # the first domain is set
    assert not equal(statistics(model, "source"), before["source"])
    assert equal(statistics(model, "target"), before["target"])

    source = statistics(model, "source")
    models.set_domain(model, "target")
    model(images(seed=2))
    assert equal(statistics(model, "source"), source)
    assert not equal(statistics(model, "target"), before["target"])


def test_per_domain_norm_starts_as_the_model_it_replaces():
    plain = small()
    plain(images())
    converted = models.domain_batch_norm(copy.deepcopy(plain)).eval()
    plain.eval()
    for domain in ("source", "target"):
        models.set_domain(converted, domain)
        assert torch.equal(converted(images())["main"], plain(images())["main"])


def test_affine_part_stays_shared_through_a_step_and_a_round_trip():
    model = small(domains=True).train()
    pair = models.SourceAndTarget(model)
    optimizer = torch.optim.SGD(models.parameter_groups(model, 0.1))
    scalar(*pair(images(seed=1), images(seed=2))).backward()
    optimizer.step()
    restored = models.domain_batch_norm(models.build("deeplabv2_small"))
    restored.load_state_dict(model.state_dict())
    for network in (model, restored, copy.deepcopy(model)):
        for norm in domain_norms(network):
            assert norm.norms["source"].weight is norm.norms["target"].weight
            assert norm.norms["source"].bias is norm.norms["target"].bias
    assert not any((norm.norms["source"].weight == 1).all() for norm in domain_norms(restored))
    assert len(list(model.parameters())) == len(list(small().parameters()))


def test_source_and_target_run_under_their_own_statistics():
    model = small(domains=True).train()
    for domain, seed in (("source", 1), ("target", 2)):
        models.set_domain(model, domain)
        models.reestimate_statistics(model, [images(seed=seed) // seed])
    model.eval()
    source, target = models.SourceAndTarget(model)(images(seed=3), images(seed=3))
    assert not torch.allclose(source["main"], target["main"])
    for domain, logits in (("source", source), ("target", target)):
        models.set_domain(model, domain)
        assert torch.equal(model(images(seed=3))["main"], logits["main"])


def test_only_the_first_batch_of_the_target_adds_to_its_statistics():
    batches = [images(seed=seed) for seed in (1, 2, 3)]
    alone, more = small(domains=True).train(), small(domains=True).train()
    alone.load_state_dict(more.state_dict())
    models.SourceAndTarget(alone)(*batches[:2])
    view = models.SourceAndTarget(more)(*batches)[2]
    assert equal(statistics(more), statistics(alone))
    assert torch.equal(view["main"], more(batches[2])["main"]), "it is normalised by its own all the same"
    assert not equal(statistics(more), statistics(alone)), "another pass, after it, counts again"


@pytest.mark.parametrize("domains", [False, True])
def test_frozen_norms_survive_train_and_still_learn(domains):
    model = small(domains)
    models.freeze_batch_norm(model)
    before = statistics(model)
    training = model.train()(images())["main"]
    scalar(model(images())).backward()
    assert equal(statistics(model), before)
    assert torch.equal(model.eval()(images())["main"], training)
    assert all(parameter.grad is not None for parameter in model.parameters())
    twin = copy.deepcopy(model).train()
    twin(images())
    assert equal(statistics(twin), before)


@pytest.mark.parametrize("freeze", [False, True])
def test_reestimated_statistics_are_those_of_the_batches(freeze):
    model = small(domains=True).train()
    if freeze:
        models.freeze_batch_norm(model)
    models.set_domain(model, "target")
    untouched = statistics(model, "source")
    modes = [module.training for module in model.modules()]
    batches = [images(seed=seed) for seed in (1, 2, 3)]
    models.reestimate_statistics(model, batches)

    stem = model.backbone.stem[1].norms["target"]
    convolved = [model.backbone.stem[0](model.normalise(batch)) for batch in batches]
    pooled = torch.cat(convolved).mean(dim=(0, 2, 3))
    torch.testing.assert_close(stem.running_mean, pooled)
    variance = torch.stack([batch.var(dim=(0, 2, 3)) for batch in convolved]).mean(dim=0)
    torch.testing.assert_close(stem.running_var, variance)
    assert equal(statistics(model, "source"), untouched)
    assert [module.training for module in model.modules()] == modes
    assert stem.momentum == 0.1
    assert all(norm.norms["target"].num_batches_tracked == 3 for norm in domain_norms(model))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("domains", [False, True])
def test_checkpoint_fills_the_whole_model(domains, tmp_path):
    saved = small(domains).train()
    saved(images())
    torch.save({"version": 1, "model": saved.state_dict()}, tmp_path / "last.pt")
    model = models.build("deeplabv2_small")
    load_pretraining(model, "deeplabv2_small", str(tmp_path / "last.pt"))
    models.set_domain(saved, "source")
    assert torch.equal(model.eval()(images())["main"], saved.eval()(images())["main"])


def test_surprising_weights_are_refused(tmp_path):
    model = small()
    path = tmp_path / "weights.pth"

    def refused(state, message):
        torch.save(state, path)
        with pytest.raises(InputError, match=message):
            load_pretraining(model, "deeplabv2_small", str(path))

    state = model.backbone.state_dict()
    refused({**state, "stage9.weight": torch.zeros(1)}, r"weights\.pth.*Unexpected: stage9\.weight")
    refused({key: value for key, value in state.items() if key != "stem.0.weight"}, r"Missing: stem\.0\.weight")
    refused({**state, "stem.0.weight": torch.zeros(1)}, r"size mismatch for stem\.0\.weight")
    refused([1], "list")
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"weights\.pth"):
        load_pretraining(model, "deeplabv2_small", str(path))
    with pytest.raises(InputError, match="no such file"):
        load_pretraining(model, "deeplabv2_small", str(tmp_path / "absent.pth"))


def test_imagenet_without_internet_says_where_to_put_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(urllib.request, "_opener", None)
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    model = models.build("deeplabv2_resnet18")
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth") as caught:
        load_pretraining(model, "deeplabv2_resnet18", "imagenet")
    folder = tmp_path / "hub" / "checkpoints"
    assert str(folder) in str(caught.value)

    network = resnet.resnet18(weights=None)
    torch.save(network.state_dict(), folder / "resnet18-f37072fd.pth")
    load_pretraining(model, "deeplabv2_resnet18", "imagenet")
    assert torch.equal(model.backbone.conv1.weight, network.conv1.weight)
    assert "fc.bias" in capsys.readouterr().out


def test_vgg16_weights_have_torchvisions_layout(tmp_path, capsys):
    model = models.build("unet_vgg16")
    state = {key: torch.full_like(value, 0.5) for key, value in model.backbone.state_dict().items()}
    assert "features.28.weight" in state
    torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg16.pth")
    load_pretraining(model, "unet_vgg16", str(tmp_path / "vgg16.pth"))
    assert all((parameter == 0.5).all() for parameter in model.backbone_parameters())
    assert "classifier.6.bias" in capsys.readouterr().out


def test_the_small_unet_has_the_layout_of_the_studys():
    small_unet, unet = models.build("unet_small").state_dict(), models.build("unet_vgg16").state_dict()
    assert small_unet.keys() == unet.keys()
    for key in ("backbone.features.28.weight", "centre.0.weight", "decoder.0.0.weight", "decoder.3.0.weight"):
        assert [8 * side for side in small_unet[key].shape[:2]] == list(unet[key].shape[:2]), key


def test_a_classifier_trains_the_encoder_and_drops_what_it_is_told():
    torch.manual_seed(0)
    network = models.build("unet_small")
    classifier = models.Classifier(network, classes=4)
    assert classifier.backbone is network.backbone and classifier.features == 64
    batch = images(3, 65, 81)
    logits = classifier(batch)
    assert logits.shape == (3, 4) and logits.dtype == torch.float32
    assert torch.equal(classifier(batch, torch.ones(3, 64)), logits)
    dropped = classifier(batch, torch.tensor([[1.0], [0.0], [1.0]]).expand(3, 64))
    assert torch.equal(dropped[1], classifier.linear.bias) and torch.equal(dropped[0], logits[0])
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_small_model_has_no_imagenet_weights():
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="--pretraining random"):
        load_pretraining(model, "deeplabv2_small", "imagenet")
    load_pretraining(model, "deeplabv2_small", "random")
    assert equal(model.state_dict().values(), before.values())


def mixed_plainly(model, images, share):
    """What a network gives whose batch norms take the mean and variance of their input, mixed with what they learnt."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):

            def forward(x, norm=module):
                mean = (1 - share) * norm.running_mean + share * x.mean((0, 2, 3))
                var = (1 - share) * norm.running_var + share * x.var((0, 2, 3))
                scaled = (x - mean[:, None, None]) / torch.sqrt(var + norm.eps)[:, None, None]
                return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]

            module.forward = forward
    with torch.no_grad():
        return model(images)["main"]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_statistics_of_an_image_are_mixed_as_they_are_met(share):
    """Of one batch the outcome is that of norms that mix in their forward pass; only the domain in use is changed."""
    torch.manual_seed(0)
    model = models.build("deeplabv2_small")
    images, other = torch.randint(0, 256, (2, 3, 1, 64, 64), dtype=torch.uint8)
    other //= 3
    models.reestimate_statistics(model, [other])
    expected = mixed_plainly(model, images, share)
    domains = models.domain_batch_norm(copy.deepcopy(model))
    for one in (model, domains):
        with torch.no_grad():
            before = one.eval()(images)["main"]
            models.mix_statistics(one, [images], share)
            found = one(images)["main"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(before, expected, rtol=1e-2, atol=1e-2)
    state = domains.state_dict()
    kept = [key for key in state if ".norms.target.running" in key]
    assert kept and all(not torch.equal(state[key], state[key.replace("target", "source")]) for key in kept)
    if share == 1:  # AdaBN, whose own norms divide by n where these divide by n - 1
        models.reestimate_statistics(model, [images])
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(images)["main"], expected, rtol=0.05, atol=0.05)


def test_statistics_of_one_value_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        models.mix_statistics(model, [torch.randn(1, 2, 1, 1)], 0.5)
