"""MLflow: a database file in the folder, unless MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # read when it is imported
    os.environ.setdefault(variable, "true")
from mlflow import MlflowClient  # noqa: E402

LONGEST = 500
"""Characters of a parameter that every store of MLflow takes."""


class MLflow:
    """A run of the experiment ``capdeploy``.

    Parameters
    ----------
    folder : Path
        Holds ``mlflow.db`` if no server is named.
    name : str
        Of the run.
    recipe : Mapping[str, str]
        Its parameters.
    """

    def __init__(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server is None:
            folder.mkdir(parents=True, exist_ok=True)
            server = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        with self._one_at_a_time(folder, server), warnings.catch_warnings():
            # Of its own use of SQLAlchemy, which nobody who tracks a run can do anything about.
            warnings.simplefilter("ignore")
            self._client = MlflowClient(tracking_uri=server)
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "capdeploy")
            known = self._client.get_experiment_by_name(title)
            place = str((folder / "mlflow-artifacts").resolve())
            experiment = known.experiment_id if known else self._client.create_experiment(
                title, artifact_location=None if "MLFLOW_TRACKING_URI" in os.environ else place
            )  # fmt: skip
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in recipe.items():
                self._client.log_param(self._run, key, value[:LONGEST])

    @staticmethod
    def _one_at_a_time(folder: Path, server: str) -> AbstractContextManager[object]:
        """Let one process make the database; two at once break it."""
        if not server.startswith("sqlite"):
            return nullcontext()
        import filelock

        return filelock.FileLock(folder / ".mlflow.lock")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep one point of each curve."""
        for name, value in values.items():
            # MLflow takes letters, digits and _-. :/ in a name.
            plain = "".join(letter if letter.isalnum() or letter in "_-. :/" else "_"
                            for letter in name)  # fmt: skip
            self._client.log_metric(self._run, plain, value, step=step)

    def end(self, *, failed: bool) -> None:
        """Close the run."""
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


BEGIN = MLflow
