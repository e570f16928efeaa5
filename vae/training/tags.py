"""Tags: the names under which trackers show the numbers of metrics.jsonl.

They are the articles' names (Loss/Test/BCE, Loss/Test/KLD, KL/beta) where these are true.
"""

from dataclasses import dataclass

from vae.config import Config
from vae.config.schema import ObjectiveSpec

CROSS_ENTROPIES = {"Bernoulli": "BCE"}  # likelihoods whose -log p(x|z) has a name of its own


@dataclass(frozen=True)
class Tags:
    """Tags of one run, by the keys of metrics.jsonl.

    Attributes:
        reconstruction: the name of -log p(x|z).
        scheduled: the objective's numbers that follow a schedule, e.g. `beta` or `capacity`.
    """

    reconstruction: str
    scheduled: tuple[str, ...]

    @classmethod
    def of(cls, config: Config) -> "Tags":
        """Return the tags of a run with this configuration."""
        name = CROSS_ENTROPIES.get(config.model.likelihood["name"], "Reconstruction")
        return cls(name, tuple(ObjectiveSpec.build(config.objective).schedules) or ("beta",))

    def of_training(self, extra: list[str]) -> dict[str, str]:
        """Return the tag of each key of a `train` row; `extra` names the objective's further terms."""
        return {
            **self._of_losses("Train"),
            **{name: f"Loss/Train/{name}" for name in extra},
            **{name: f"KL/{name}" for name in self.scheduled},
            "grad_norm": "GradNorm/Train",
            "lr": "LearningRate",
            "images_per_second": "ImagesPerSecond",
        }

    def of_evaluation(self, split: str) -> dict[str, str]:
        """Return the tag of each key of a row of an evaluation: of `test`, `val`, `test_raw` or `val_raw`."""
        part, latents = _camel(split), self.latents(split)
        return {
            **self._of_losses(part),
            "reconstruction_mean_z": f"Loss/{part}/{self.reconstruction}_at_mean_z",
            "active_units": f"{latents}/ActiveUnits",
            "perplexity": f"{latents}/Perplexity",
            "bits_per_dim": f"Loss/{part}/bits_per_dim",
            "accuracy": f"Accuracy/{part}",
        }

    @staticmethod
    def latents(split: str) -> str:
        """Return the group of tags on latent dimensions of the rows of `test`, `val`, `test_raw` or `val_raw`."""
        return "Latents" if split == "test" else f"Latents/{_camel(split)}"

    def of_results(self) -> dict[str, str]:
        """Return the tag of each key of summary.json's `test`."""
        names = {"loss": "Loss", "reconstruction": f"Loss/{self.reconstruction}", "kl": "Loss/KLD"}
        return {key: f"Final/{name}" for key, name in {**names, "accuracy": "Accuracy"}.items()}

    def _of_losses(self, part: str) -> dict[str, str]:
        reconstruction = f"Loss/{part}/{self.reconstruction}"
        return {"loss": f"Loss/{part}", "reconstruction": reconstruction, "kl": f"Loss/{part}/KLD"}


def _camel(split: str) -> str:
    """Return `Test`, `Val`, `TestRaw` or `ValRaw`."""
    return "".join(word.capitalize() for word in split.split("_"))
