"""Exported programs: what their files give is what the commands give, for every kind of model; whole or not there."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import ROOT
from tests.helpers.folders import write_data, write_run
from tests.helpers.pieces import CLASSES, build_model
from vae import __main__ as cli
from vae import uses
from vae.components import Table
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.errors import InputError, JobError
from vae.families.hierarchy import HIERARCHIES
from vae.families.likelihoods import LIKELIHOODS
from vae.families.posteriors import POSTERIORS
from vae.families.priors import PRIORS
from vae.model import VAE
from vae.networks import DECODERS, ENCODERS
from vae.networks.mlp import MLPEncoder
from vae.sharing import exporting
from vae.sharing.exporting import TOLERANCE, export
from vae.sharing.formats import FORMATS, Function
from vae.sharing.programs import Arrays, Encoder, Prior
from vae.uses.inputs import open_images

VQ = {"posterior": "{name: VectorQuantized, codes: 6}", "latent_dim": 16}
MODELS: dict[str, dict[str, Any]] = {  # together all pieces that there are
    "dense": {"encoder": "ConvEncoder", "decoder": "ConvDecoder", "likelihood": "DiscretizedLogistic",
              "posterior": "{name: DiagonalNormal, scale: exp}", "center_input": True},
    "full": {"posterior": "FullNormal", "encoder": "ResidualMLPEncoder", "decoder": "ResidualMLPDecoder",
             "prior": "{name: GaussianMixture, components: 3}", "likelihood": "ContinuousBernoulli"},
    "spline": {"posterior": "{name: SplineFlow, layers: 1, width: 8, bins: 4}", "likelihood": "Normal",
               "prior": "{name: VampPrior, pseudo_inputs: 3}"},
    "autoregressive": {"posterior": "{name: InverseAutoregressiveFlow, layers: 2}", "likelihood": "NormalLearnedStd",
                       "prior": "{name: Flow, layers: 1, width: 8, bins: 4}", "latent_dim": 3},
    "codes": VQ | {"prior": "AutoregressiveCodes", "likelihood": "NormalPixelStd"},
    "even codes": VQ | {"prior": "UniformCodes", "likelihood": "Bernoulli"},
    "bottom up": {"hierarchy": "BottomUp", "prior": "ClassNormal", "likelihood": "OptimalNormal"},
    "ladder": {"hierarchy": "{name: Ladder, latent_dims: [4, 3], hidden_dims: [8]}", "likelihood": "Categorical"},
    "conditional": {"condition": True, "likelihood": "DiscretizedLogisticMixture"},
    "inferring": {"condition": True, "infer_labels": True, "prior": "StandardNormal", "encoder": "MLPEncoder",
                  "decoder": "MLPDecoder", "hierarchy": "Flat"},
}  # fmt: skip
ALSO_ONNX = ("full", "codes", "inferring")  # torch's exporter takes a second or more for each program
DRAWING = ("spline", "autoregressive", "bottom up", "ladder")
OBJECTIVES = {"codes": "VectorQuantization", "even codes": "VectorQuantization", "inferring": "SemiSupervised"}
TABLES: dict[str, Table] = {
    "posterior": POSTERIORS, "prior": PRIORS, "likelihood": LIKELIHOODS, "hierarchy": HIERARCHIES,
    "encoder": ENCODERS, "decoder": DECODERS,
}  # fmt: skip


def a_run(folder: Path, name: str) -> Path:
    settings = [f"model.{key}={value}" for key, value in MODELS[name].items()]
    objective = [f"objective={OBJECTIVES[name]}"] if name in OBJECTIVES else []
    return write_run(folder / "run", write_data(folder), *settings, *objective, classes=CLASSES)


def load(folder: Path, kind: str) -> dict[str, Function]:
    """Return the functions in the files of a folder, as somebody without the project reads them."""
    described = json.loads((folder / "manifest.json").read_text())["programs"]
    return {name: _load(folder / f"{name}.{kind}", described[name]) for name in described}


def _load(path: Path, described: dict[str, Any]) -> Function:
    outputs = [port["name"] for port in described["outputs"]]
    if path.suffix == ".pt2":
        function = torch.export.load(path).module()

        def run(inputs: Arrays) -> Arrays:
            first, *others = inputs
            found = function(inputs[first], **{name: inputs[name] for name in others})
            return {name: found[name].detach() for name in outputs}
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path)

        def run(inputs: Arrays) -> Arrays:
            found = session.run(outputs, {name: array.numpy() for name, array in inputs.items()})
            return dict(zip(outputs, map(torch.from_numpy, found), strict=True))

    return run


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_models_below_have_every_piece() -> None:
    named = {key: [str(model.get(key, "")) for model in MODELS.values()] for key in TABLES}
    missing = [
        name
        for key, table in TABLES.items()
        for name in table
        if not any(name in settings.strip("{}").replace("name: ", "").split(",") for settings in named[key])
    ]
    assert not set(missing) - {"StandardNormal", "DiagonalNormal"}


@pytest.mark.parametrize("name", MODELS)
def test_files_give_what_the_commands_give(name: str, tmp_path: Path) -> None:
    """`encode` and `sample` on the run's test images; all are in one batch, whose size is not the export's."""
    folder = a_run(tmp_path, name)
    formats = [kind for kind in FORMATS if kind == "pt2" or name in ALSO_ONNX]
    done = export(folder, formats=formats, count=20)
    assert max(done.differences.values()) <= TOLERANCE
    assert done.examples == 20
    opened = open_images(folder, data=None, data_root=None, split="test")
    x, model = to_unit_interval(opened.part.images, torch.float32), opened.model
    labels = torch.arange(len(x)) % CLASSES
    codes, sampled = uses.encode(folder).codes, uses.sample(folder, count=9).images
    for kind in formats:
        programs = load(folder / "export", kind)
        inputs = {"x": x}
        if name in DRAWING:
            inputs["noise"] = torch.zeros(len(x), model.noise_dim)
        if name == "conditional":
            inputs["labels"] = labels
        found = programs["encoder"](inputs)
        if codes.codes is not None:
            assert torch.equal(found["codes"], codes.codes)
        else:
            close(found["mean"] if "mean" in found else found["z"], codes.mean)
        if codes.std is not None:
            close(found["std"], codes.std)
        if name == "inferring":
            inferred = model.classify(x)
            assert inferred is not None
            assert torch.equal(found["labels"], inferred.most_probable)
            close(found["probabilities"], inferred.log_q.exp().T.detach())

        if name in DRAWING:
            noise = randomness.normal(len(x), model.noise_dim, 7, "test")
            found = programs["encoder"]({"x": x, "noise": noise})
            layers = model.infer(x, noise, labels)
            close(found["z"], layers[0].z.detach())
            for number, layer in enumerate(layers[1:], start=2):
                close(found[f"z_{number}"], layer.z.detach())
            if len(layers) == 1:
                close(found["log_q"], layers[0].q.log_prob(layers[0].z).detach())

        noise = randomness.normal(9, model.draw_dim, 0, "samples")
        drawn = {"z": noise}
        if "prior" in programs:
            drawn = programs["prior"]({"noise": noise} | ({"labels": labels[:9]} if name == "bottom up" else {}))
        seen = {"labels": labels[:9]} if model.condition else {}
        close(programs["decoder"](drawn | seen)["images"], sampled)
        one = {key: value[:1] for key, value in (drawn | seen).items()}
        close(programs["decoder"](one)["images"], sampled[:1])


def test_files_are_the_same_each_time_and_hold_nothing_of_the_machine_or_the_data(tmp_path: Path) -> None:
    folder = a_run(tmp_path, "conditional")
    first = export(folder, formats=["pt2"], count=10)
    second = export(folder, formats=["pt2"], count=30, output=tmp_path / "again")
    for one, other in zip(first.files[:-1], second.files[:-1], strict=True):
        assert one.read_bytes() == other.read_bytes()
        for path in (ROOT, tmp_path):
            assert str(path).encode() not in one.read_bytes()
    weights = VAE.from_pretrained(folder / "model").encoder.state_dict().values()
    for file, held in zip(first.files, (True, False), strict=False):  # each its own part
        assert all((weight.numpy().tobytes() in file.read_bytes()) == held for weight in weights)
    manifest = json.loads(first.files[-1].read_text())
    assert manifest["programs"]["encoder"]["inputs"][1]["name"] == "labels"
    assert manifest["programs"]["decoder"]["outputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert manifest["check"]["examples"] == 10


def test_an_export_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(tmp_path, "even codes")
    place = folder / "export"
    export(folder, formats=["pt2"], count=3)
    (place / "decoder.onnx").touch()  # of an earlier export
    (place / "notes.txt").touch()
    export(folder, formats=["pt2"], count=3)
    assert {path.name for path in place.iterdir()} == {
        "encoder.pt2", "decoder.pt2", "prior.pt2", "manifest.json", "notes.txt",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in place.iterdir()}
    honest = FORMATS["pt2"]

    def off(path: Path, program: Any) -> Function:
        function = honest.load(path, program)
        return lambda inputs: {key: value + (1 if key == "codes" else 2e-5) for key, value in function(inputs).items()}

    monkeypatch.setitem(FORMATS, "pt2", replace(honest, load=off))
    with pytest.raises(JobError, match=r"encoder\.pt2: codes: not what PyTorch gives; not written"):
        export(folder, formats=["pt2"], count=3)
    with pytest.raises(JobError):
        export(folder, formats=["pt2"], count=3, output=tmp_path / "some" / "where")
    assert {path: path.read_bytes() for path in place.iterdir()} == before
    assert not (tmp_path / "some").exists()

    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else True)
    assert cli.main(["export", str(folder), "--output", str(tmp_path / "new")]) == 2
    assert "--formats onnx: needs packages that are not installed: pip install onnx (" in capsys.readouterr().err
    assert cli.main(["export", str(folder), "--formats", "pt2,h5"]) == 2
    assert "--formats h5: must be among onnx, pt2" in capsys.readouterr().err
    monkeypatch.setitem(FORMATS, "pt2", honest)
    (tmp_path / "file").touch()
    assert cli.main(["export", str(folder), "--formats", "pt2", "--output", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_signal_leaves_no_half_written_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, handler = a_run(tmp_path, "dense"), signal.getsignal(signal.SIGTERM)

    def terminated(*_: object) -> Function:
        assert (folder / "export" / ".partial-export" / "encoder.pt2").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal ends the export")

    monkeypatch.setitem(FORMATS, "pt2", replace(FORMATS["pt2"], load=terminated))
    assert cli.main(["export", str(folder), "--formats", "pt2"]) == 85
    assert capsys.readouterr().err == "python -m vae: SIGTERM: stopped\n"
    assert not (folder / "export").exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_piece_that_cannot_be_exported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path, "conditional")
    forward = MLPEncoder.forward

    def looking(self: MLPEncoder, x: Tensor, *others: Any) -> Tensor:
        return forward(self, x if x.sum().item() > 0 else -x, *others)

    monkeypatch.setattr(MLPEncoder, "forward", looking)
    with pytest.raises(InputError, match=r"its encoder cannot be exported \(torch\.export\): "):
        export(folder, formats=["pt2"], count=3)
    assert not (folder / "export").exists()


def test_a_choice_between_equals_is_as_right_as_pytorchs() -> None:
    model = build_model({"posterior": {"name": "VectorQuantized", "codes": 5, "code_dim": 1}, "prior": "UniformCodes"})
    encoder, inputs = Encoder(model), {"x": torch.rand(4, 1, 6, 6)}
    for weight in encoder.model.encoder.parameters():
        weight.data.zero_()  # so that the numbers are 0 for each image
    vectors = encoder.model.posterior.vectors()
    assert vectors is not None
    vectors.copy_(torch.tensor([0.3, -0.1, 0.1, 2.0, 9.0])[:, None])
    assert set(encoder(inputs["x"])["codes"].flatten().tolist()) <= {1, 2}
    wanted = {"codes": torch.full((4, 3), 1)}
    found = {"codes": torch.tensor([[2, 1, 1], [2, 2, 2], [0, 2, 1], [2, 2, 5]])}  # 5: there is no such code
    assert encoder.tied(inputs, wanted, found, TOLERANCE).tolist() == [True, True, False, False]
    assert not encoder.tied(inputs, wanted, wanted, TOLERANCE).any()  # the same: nothing to excuse


def test_a_draw_at_the_border_of_two_components_may_be_of_either() -> None:
    model = build_model({"prior": {"name": "GaussianMixture", "components": 2}})
    prior = Prior(model)
    noise = torch.zeros(3, model.draw_dim)  # where the second component begins
    noise[1:, -1] = torch.tensor([1e-7, 0.1])
    before, after = prior(noise - 1e-6)["z"], prior(noise + 1e-6)["z"]
    assert not torch.allclose(before[0], after[0], atol=0.1)
    for side, last in ((before, False), (after, True)):  # the last one is of the second component, whatever is rounded
        found = {"z": side[0].expand(3, -1)}
        assert prior.tied({"noise": noise}, prior(noise), found, TOLERANCE).tolist() == [True, True, last]


def test_labels_on_a_border_are_tied_and_others_not() -> None:
    model = build_model({"condition": True, "infer_labels": True})
    encoder, inputs = Encoder(model), {"x": torch.rand(2, 1, 6, 6)}
    outputs = encoder(inputs["x"])
    order = outputs["probabilities"].argsort(1)
    assert encoder.tied(inputs, outputs, {"labels": order[:, -2]}, 1.0).all()
    assert not encoder.tied(inputs, outputs, {"labels": order[:, 0]}, 1e-9).any()
    assert not encoder.tied(inputs, outputs, {"labels": outputs["labels"]}, 1.0).any()


def test_the_command_prints_files_and_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run(tmp_path, "conditional")
    assert cli.main(["export", str(folder), "--formats", "pt2", "--count", "7"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "largest difference from PyTorch on 7 test images (at most 1e-05):",
        f"  {folder}/export/encoder.pt2  0.0e+00",
        f"  {folder}/export/decoder.pt2  0.0e+00",
        f"{folder}/export/manifest.json",
    ]
    assert not err
    assert np.isfinite(uses.encode(folder).codes.mean.numpy()).all()
