"""The style-based networks against values of the official ones, whose weights follow a seeded rule; and their laws."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phidet import create_model, load_model, save_model
from phidet.architectures.adversarial import Chance, Phase
from phidet.architectures.processes import Processes
from phidet.architectures.registry import architecture_named
from phidet.architectures.stylegan.adversary import StyleAdversary, coarsened
from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.dialect_official import OFFICIAL, discriminator_slot, generator_slot
from phidet.architectures.stylegan.discriminator import batch_deviation
from phidet.architectures.stylegan.generator import Generator, mixed
from phidet.architectures.stylegan.layers import (
    ConvolutionDown,
    ConvolutionUp,
    blur,
    downscale,
    instance_norm,
    leaky_relu,
    pixel_norm,
    upscale,
)
from phidet.architectures.stylegan.losses import discriminator_loss
from phidet.architectures.stylegan.published import STYLEGAN_NAMES, stylegan_config
from phidet.architectures.stylegan.settings import AdversarialSettings
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.weights.load import load_into, open_source
from phidet.weights.mapping import to_ours, to_theirs

SMALL = StyleGanConfig(
    name="small", resolution=32, channels_base=512, channels_limit=64, latent_size=48, style_size=40, mapping_width=56
)
DETAILS = ("0", "1", "1.5", "2.25")
ONE = Processes(1, lambda value: value)


class Official(NamedTuple):
    """Networks with the official weights in fp64, and the values that the official ones computed."""

    generator: Generator
    adversary: StyleAdversary
    rule: ModuleType
    made: Any
    scored: Any

    @property
    def noise(self) -> list[Tensor]:
        return self.generator.synthesis.stored_noise()

    @property
    def styles(self) -> Tensor:
        return self.generator.styles(torch.from_numpy(self.made["z"]).double())

    @property
    def images(self) -> Tensor:
        low = self.rule.normal("input/images_low", (8, 3, 8, 8), 0).repeat(4, 2).repeat(4, 3)
        images = (low + 0.3 * self.rule.normal("input/images", (8, 3, 32, 32), 0)).astype(np.float32)
        np.testing.assert_allclose(images.ravel()[:3], self.scored["images_first3"], rtol=1e-6)
        return torch.from_numpy(images).double()


def seeded(network: nn.Module, slots: dict[str, Any], rule: ModuleType, scope: str = "") -> None:
    """Fills ``network`` with the seeded weights, which have the official names and layouts."""
    shape_of = {"same": lambda s: s, "io": lambda s: s[::-1], "hwio": lambda s: (s[2], s[3], s[1], s[0])}
    state = network.state_dict()
    theirs = {
        slot.keys[0]: torch.from_numpy(
            rule.stylegan_array(scope + slot.keys[0], shape_of[slot.layout](tuple(state[name].shape)), 0)
        )
        for name, slot in slots.items()
    }
    dialect = OFFICIAL._replace(slot=lambda name, config: slots[name])
    network.load_state_dict(to_ours(theirs, dialect, SMALL, state).tensors)
    network.double()


@pytest.fixture(scope="module")
def official(shared: Path) -> Official:
    spec = importlib.util.spec_from_file_location("seed_rule", shared / "reference" / "seed_rule.py")
    assert spec is not None
    assert spec.loader is not None
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    generator, adversary = Generator(SMALL), StyleAdversary(SMALL, AdversarialSettings())
    slots = {name: generator_slot(name, SMALL) for name in generator.state_dict()}
    seeded(generator, slots, rule)
    network = adversary.discriminator
    seeded(network, {name: discriminator_slot(name, SMALL) for name in network.state_dict()}, rule, "D/")
    made, scored = (np.load(shared / f"reference/stylegan/{name}.npz") for name in ("generator", "discriminator"))
    return Official(generator, adversary, rule, made, scored)


@pytest.fixture(scope="module")
def ops(shared: Path) -> Any:
    return np.load(shared / "reference/stylegan/ops.npz")


def near(ours: Tensor, theirs: Any, atol: float) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=atol)


def test_mapping_and_images_are_the_official_ones(official: Official) -> None:
    made, network, noise = official.made, official.generator.synthesis, official.noise
    styles = official.styles
    near(styles[:, 0], made["w"], 1e-5)
    near(styles[:, -1], made["w"], 1e-5)
    for detail in DETAILS:
        near(network(styles, noise, float(detail)), made[f"img_lod{detail}"], 1e-4)
    near(network(mixed(styles, styles.flip(0), 3), noise), made["img_mixed"], 1e-4)
    near(network(styles[:2], []), made["img_noise_zero"], 1e-4)


def test_every_layer_is_the_official_one(official: Official) -> None:
    network, noise, styles = official.generator.synthesis, official.noise, official.styles[:2]
    assert network.constant is not None
    x = network.constant.expand(2, -1, -1, -1)
    for i, layer in enumerate(network.layers):
        x = layer(x, styles[:, i], noise[i])
        near(x[:, :6, :16, :16], official.made[f"layer{i}_after_style_mod"], 1e-4)


def test_truncation_is_the_official_one(official: Official) -> None:
    made, network = official.made, official.generator
    near(network.style_average, made["dlatent_avg"], 0)
    for psi, cutoff in (("0.7", 8), ("0.7", 3), ("0.5", 5), ("-1", 2)):
        styles = network.truncated(official.styles, float(psi), cutoff)
        near(styles, made[f"trunc_psi{psi}_cut{cutoff}_w"], 1e-5)
        if f"trunc_psi{psi}_cut{cutoff}_img" in made:
            near(network.synthesis(styles, official.noise), made[f"trunc_psi{psi}_cut{cutoff}_img"], 1e-4)


def test_fused_convolutions_are_the_official_ones(official: Official, ops: Any) -> None:
    config = msgspec.structs.replace(SMALL, fused_scale="always")
    fused, adversary = Generator(config).double(), StyleAdversary(config, AdversarialSettings())
    fused.load_state_dict(official.generator.state_dict())
    near(fused.synthesis(official.styles[:2], official.noise), official.made["img_fused_scale_true"], 1e-4)
    adversary.discriminator.double().load_state_dict(official.adversary.discriminator.state_dict())
    near(adversary.discriminator(official.images), official.scored["scores_fused_scale_true_lod0"][:, 0], 1e-5)
    for name, kind in (("up", ConvolutionUp), ("down", ConvolutionDown)):
        layer = kind(4, 3, 3, 3, bias=False)
        layer.weight.data = torch.from_numpy(ops[f"w_{name}"]).permute(3, 2, 0, 1)
        for layer.fused in (False, True):
            near(layer(torch.from_numpy(ops["x"])), ops[f"conv_{name}_fused{int(layer.fused)}"], 1e-5)


def test_operations_are_the_official_ones(ops: Any) -> None:
    x = torch.from_numpy(ops["x"])
    for name, ours in (
        ("blur_121", blur(x)),
        ("upscale2", upscale(x)),
        ("downscale2", downscale(x)),
        ("downscale_of_4x_factor", downscale(torch.from_numpy(ops["x8"]), 4)),
        ("leaky", leaky_relu(x)),
        ("pixel_norm", pixel_norm(x)),
        ("instance_norm", instance_norm(x)),
    ):
        near(ours, ops[name], 1e-6)


def test_scores_are_the_official_ones(official: Official) -> None:
    scored, network, images = official.scored, official.adversary.discriminator, official.images
    for detail in DETAILS:
        near(network(images, detail=float(detail)), scored[f"scores_lod{detail}"][:, 0], 1e-5)
    near(network(images[:3]), scored["scores_batch3_lod0"][:, 0], 1e-5)
    toy = torch.from_numpy(scored["mbstd_toy_in"])
    near(batch_deviation(toy), scored["mbstd_toy_g4_n1"], 1e-6)
    near(batch_deviation(toy, group=2, features=3), scored["mbstd_toy_g2_n3"], 1e-6)


@pytest.mark.parametrize("detail", ["0", "1.5"])
def test_losses_penalty_and_gradients_are_the_official_ones(official: Official, detail: str) -> None:
    scored, network, adversary = official.scored, official.generator, official.adversary
    phase = Phase(8, 0.001, float(detail), (0,))
    latents = torch.from_numpy(scored["z_loss"]).double()
    fake = network.synthesis(network.styles(latents), official.noise, phase.detail)
    network.zero_grad()
    loss = adversary.generator_loss(fake, None, phase)
    loss.backward(retain_graph=True)
    assert loss.item() == pytest.approx(scored[f"G_loss_nonsat_lod{detail}"].mean(), abs=1e-5)
    _same_norms(network, generator_slot, scored[f"G_grad_names_lod{detail}"], scored[f"G_grad_norms_lod{detail}"])
    adversary.discriminator.zero_grad()
    losses = adversary.discriminator_losses(official.images, fake.detach(), None, phase)
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(float(scored[f"D_loss_total_mean_lod{detail}"]), abs=1e-5)
    assert losses["penalty"].item() == pytest.approx(scored[f"r1_penalty_per_sample_lod{detail}"].mean(), rel=2e-3)
    names, norms = scored[f"D_grad_names_lod{detail}"], scored[f"D_grad_norms_lod{detail}"]
    _same_norms(adversary.discriminator, discriminator_slot, names, norms)


@pytest.mark.parametrize(("penalty", "weight"), [(0.0, 0.0), (10.0, 10.0), ("auto", 0.0256)])
def test_the_penalty_is_weighed_by_the_size_of_images_and_batch(
    official: Official, penalty: float | Literal["auto"], weight: float
) -> None:
    adversary = StyleAdversary(SMALL, AdversarialSettings(penalty=penalty))
    adversary.discriminator = official.adversary.discriminator
    real, phase = official.images[:8], Phase(8, 0.001, 0.0, (0,))
    losses = adversary.discriminator_losses(real, real, None, phase)
    scores = adversary.discriminator(real)
    # 0.0256 = 0.0002 · 32² / 8
    expected = discriminator_loss(scores, scores).mean() + weight / 2 * losses["penalty"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def _same_norms(network: nn.Module, slot: Any, names: Any, norms: Any) -> None:
    ours = {
        slot(name, SMALL).keys[0]: 0.0 if p.grad is None else float(p.grad.norm())
        for name, p in network.named_parameters()
    }
    np.testing.assert_allclose([ours[name] for name in names], norms, rtol=2e-3)


def test_counts_are_those_of_the_paper() -> None:
    def count(name: str) -> tuple[int, int]:
        with torch.device("meta"):
            config = stylegan_config(name)
            networks = Generator(config), StyleAdversary(config, AdversarialSettings()).discriminator
        first, second = (sum(p.numel() for p in network.parameters()) for network in networks)
        return first, second

    assert count("stylegan-32") == (22_841_356, 20_726_785)
    assert count("stylegan-64") == (25_137_935, 22_498_049)
    assert count("stylegan-256") == (26_086_229, 23_052_353)
    assert count("stylegan-1024") == (26_219_627, 23_087_249)
    for resolution, traditional in ((32, 20_719_628), (64, 22_490_383), (256, 23_044_309), (1024, 23_079_115)):
        assert count(f"stylegan-{resolution}-b")[0] == traditional


def test_the_schedule_is_the_official_one(ops: Any) -> None:
    for resolution, kimg, detail, trained, batch, rate, _ in ops["schedule_8gpu_start8"]:
        adversary = StyleAdversary.__new__(StyleAdversary)  # the schedule needs no network of 1024 pixels
        adversary.config = stylegan_config(f"stylegan-{int(resolution)}")
        adversary.settings = AdversarialSettings()
        phase = adversary.phase(round(kimg * 1000), batch_size=1, rate=0.001)
        assert phase.detail == pytest.approx(detail, abs=1e-9)
        assert int(resolution) >> int(phase.detail) == trained
        assert (phase.batch_size, phase.rate) == (batch, pytest.approx(rate))
        assert phase.networks == (int(np.floor(phase.detail)), int(np.ceil(phase.detail)))


def test_images_shown_and_averages_are_the_official_ones(official: Official, ops: Any) -> None:
    images = torch.from_numpy(ops["reals_u8"])
    for detail in ("0", "0.4", "1", "1.75"):
        # The official data lie at the level's own resolution; ours at the full one.
        level = int(float(detail))
        full = upscale(images.float() / 127.5 - 1, 2**level)
        near(coarsened(full, float(detail)), ops[f"process_reals_lod{detail}"], 1e-6)
    for batch, beta in zip(ops["ema_minibatch"], ops["ema_beta_half_life_10kimg"], strict=True):
        assert official.adversary.average_decay(int(batch)) == pytest.approx(beta, abs=1e-9)
    before = official.generator.style_average.clone()
    latents = torch.from_numpy(official.made["z"]).double()

    class Given(Chance):
        def normal(self, *shape: int) -> Tensor:
            return latents

    chance = Given(torch.device("cpu"), 0)
    official.adversary.fake_images(official.generator, None, Phase(5, 0.001, 0.0, (0,)), chance, ONE)
    near(official.generator.style_average, official.made["dlatent_avg_after_one_step_beta0.995"], 1e-6)
    official.generator.style_average.copy_(before)


@pytest.mark.parametrize("letter", ["a", "b", "c", "d", "e", "f"])
def test_configurations_differ_in_what_the_paper_changed(letter: str) -> None:
    name = "stylegan-16" + ("" if letter == "f" else f"-{letter}")
    full = stylegan_config(name)
    sizes = {"latent_size": 24, "style_size": 24, "mapping_width": 24, "channels_limit": 16}
    config = msgspec.structs.replace(full, **sizes)
    torch.manual_seed(0)
    network = Generator(config)
    names = {name.split(".")[-1] for name in network.state_dict()}
    assert ("noise_strength" in names) == ("noise5" in dict(network.synthesis.named_buffers())) == (letter in "ef")
    assert ("constant" in names) == (letter in "def")
    assert bool(len(network.mapping.layers)) == (letter in "cdef")
    assert (full.style_mixing > 0) == (letter == "f")
    latents = torch.randn(2, 24)
    images = network(latents)
    # The same latents give the same image; w is normalised, so their length does not matter.
    assert torch.allclose(network(3 * latents), images, atol=1e-4)
    assert not torch.allclose(images[0], images[1], atol=1e-2)
    blurred = any(layer.blurred for layer in network.synthesis.layers)
    assert blurred == (letter != "a")


def test_levels_of_detail_meet_without_a_jump() -> None:
    torch.manual_seed(1)
    network, adversary = Generator(SMALL).double(), StyleAdversary(SMALL, AdversarialSettings())
    score = adversary.discriminator.double()
    styles, images = network.styles(torch.randn(4, 48).double()), torch.randn(4, 3, 32, 32).double()
    for level in (1, 2):
        for near_it in (level - 1e-9, level + 1e-9):
            for of, at in (
                (lambda d: network.synthesis(styles, [], d), near_it),
                (lambda d: score(images, None, d), near_it),
            ):
                assert torch.allclose(of(at), of(float(level)), atol=1e-7)
    # What is coarser than the level does not reach the discriminator.
    assert torch.allclose(score(images, None, 1.0), score(coarsened(images, 1.0), None, 1.0), atol=1e-12)


def test_a_class_changes_the_image_and_has_a_score_of_its_own() -> None:
    torch.manual_seed(2)
    config = msgspec.structs.replace(SMALL, class_names=("red", "blue", "green"), labelled=True)
    network, adversary = Generator(config), StyleAdversary(config, AdversarialSettings())
    latents, labels = torch.randn(3, 48), torch.eye(3)
    images = network(latents[:1].expand(3, -1), labels, network.synthesis.stored_noise())
    assert (images[0] - images[1]).abs().max() > 0.05
    scores = torch.stack([adversary.discriminator(images, torch.eye(3)[[i] * 3]) for i in range(3)])
    assert len({round(float(score), 6) for score in scores[:, 0].detach()}) == 3
    # A one-hot label picks the score of its class.
    mixed_labels = adversary.discriminator(images, labels)
    assert torch.allclose(mixed_labels, scores.diagonal())


def test_two_processes_make_and_score_the_batch_of_one() -> None:
    torch.manual_seed(3)
    network, adversary = Generator(SMALL), StyleAdversary(SMALL, AdversarialSettings())
    score = adversary.discriminator
    phase = Phase(16, 0.001, 0.5, (0, 1))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole = adversary.fake_images(network, None, phase, Chance(torch.device("cpu"), 7), ONE)
    scores = score(whole, None, 0.5)
    for rank in (0, 1):
        network.load_state_dict(state)
        chance = Chance(torch.device("cpu"), 7, rank, 2)
        share = adversary.fake_images(network, None, phase, chance, Processes(2, lambda value: 2 * value))
        assert torch.allclose(share, whole[rank::2], atol=1e-5)
        assert torch.allclose(score(share, None, 0.5), scores[rank::2], atol=1e-5)


def test_official_files_are_read_and_own_ones_come_back(tmp_path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415

    torch.manual_seed(4)
    network = Generator(SMALL)
    theirs = to_theirs(network.state_dict(), OFFICIAL, SMALL)
    assert theirs["G_synthesis/8x8/Conv0_up/weight"].shape == (3, 3, 64, 64)
    save_file({**theirs, "lod": torch.zeros(1)}, tmp_path / "official.safetensors")
    fresh = Generator(SMALL)
    load_into(fresh, open_source(tmp_path / "official.safetensors"))
    save_model(fresh, tmp_path / "own.safetensors")
    again = load_model(tmp_path / "own.safetensors")
    assert again.config == SMALL
    for (name, first), second in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def test_mistakes_have_one_message() -> None:
    with pytest.raises(ConfigError, match="resolution must be a power of two from 8 to 1024, got 48"):
        StyleGanConfig(name="x", resolution=48)
    with pytest.raises(ConfigError, match="without mapping layers style_size is that of the latents, 1024, got 512"):
        StyleGanConfig(name="x", mapping_layers=0, labelled=True, class_names=("a", "b"))
    with pytest.raises(UnknownNameError, match="unknown generator 'stylegan-48'"):
        stylegan_config("stylegan-48")
    with pytest.raises(ConfigError, match="makes square images, got 32×64"):
        create_model("stylegan-32-small", image_size=(32, 64))
    with pytest.raises(ConfigError, match="penalty must be ≥ 0, or auto, got -1"):
        AdversarialSettings(penalty=-1)
    with pytest.raises(ConfigError, match="efficientdet networks make no images"):
        architecture_named("efficientdet").adversarial(None, {})
    assert len(STYLEGAN_NAMES) == 64
