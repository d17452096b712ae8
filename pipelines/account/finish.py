"""The end of a run on AWS: attaches the model card to the package, and sends one test image to the candidate.

A pipeline can do neither: AWS documents values from files only for conditions, and no type of step calls an endpoint.
The command that watches the run does both.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mammopipe.inference.client.client import MammographyClient
from mammopipe.pipelines.backends.sessions import ExpiredCredentialsError, aws_errors
from mammopipe.pipelines.data.s3 import ExpiredAccessError, Storage
from mammopipe.pipelines.runs import results
from mammopipe.processing.errors import MammopipeError


def finish(
    folder: Path,
    execution: Mapping[str, Any],
    sagemaker: Any,
    storage: Storage,
    say: Callable[[str], None],
    *,
    client: Callable[..., Any] = MammographyClient,
) -> None:
    """Attach the model card to the run's package and send the candidate one image of the test split.

    A failure is reported, but does not fail the run, which has ended. Only expired credentials are raised.

    Args:
        folder: The run's folder, for `invocation.json`.
        execution: The run's `execution.json`.
        sagemaker: A boto3 client of SageMaker.
        storage: S3.
        say: Called with each line for the user.
        client: Makes the client of an endpoint from its name and region.
    """
    arns = {step["name"]: step["arn"] for step in execution["steps"] if step.get("arn")}
    if execution.get("model_card") and "Register" in arns:
        try:
            _attach_card(execution, arns["Register"], sagemaker, storage)
            say(f"Package {arns['Register']} has the model card, as a draft")
        except (ExpiredCredentialsError, ExpiredAccessError):
            raise
        except MammopipeError as error:
            say(f"Package {arns['Register']} has no model card: {error}")
    if "Endpoint" in arns:
        name = arns["Endpoint"].rpartition("/")[2]
        try:
            _ask(folder, execution, client(name, region=execution["region"]), name, storage, say)
        except (ExpiredCredentialsError, ExpiredAccessError):
            raise
        except MammopipeError as error:
            say(f"Endpoint {name} did not answer a test image; do not approve its package: {error}")


def _attach_card(execution: Mapping[str, Any], package: str, sagemaker: Any, storage: Storage) -> None:
    text = storage.read(f"{execution['results']}/evaluation/registration.json")
    card = {"ModelCardContent": json.loads(text)["model_card"], "ModelCardStatus": "Draft"}
    with aws_errors():
        sagemaker.update_model_package(ModelPackageArn=package, ModelCard=card)


def _ask(
    folder: Path,
    execution: Mapping[str, Any],
    client: MammographyClient,
    name: str,
    storage: Storage,
    say: Callable[[str], None],
) -> None:
    prepared = f"{execution['results']}/{results.PREPARED}"
    if not storage.list(f"{prepared}/manifest"):
        say(
            f"Endpoint {name} got no test image: the step cache replaced Prepare, so this run has no list of its images"
        )
        return
    output = {"OutputName": results.PREPARED, "S3Output": {"S3Uri": prepared}}
    steps = {"Prepare": {"ProcessingOutputConfig": {"Outputs": [output]}}}
    image = results.choose_image(steps, execution["parameters"]["InputDataUri"].rstrip("/"), storage)
    if image is not None:
        results.ask_client(client, name, image, storage, folder / "invocation.json", say)
