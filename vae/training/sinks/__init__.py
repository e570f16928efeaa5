"""Sinks: the trackers that a run's curves, pictures and results go to, beside metrics.jsonl; `run.trackers` names them.

A tracker is one file and one line in the table.
"""

from vae.training.sinks.base import Sink
from vae.training.sinks.known import Aim, ClearML, Comet, DVCLive, MLflow, SwanLab, Trackio, WandB
from vae.training.sinks.tensorboard import TensorBoard

__all__ = ["SINKS", "Sink", "TensorBoard"]

# by the names that Accelerate gives to trackers
SINKS: dict[str, type[Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
    "comet_ml": Comet,
    "aim": Aim,
    "clearml": ClearML,
    "dvclive": DVCLive,
    "swanlab": SwanLab,
}
