"""The benchmark's work as handlers for TorchServe and SageMaker's multi-model-server: same image, same answer.

BENCHMARK_MODEL names the model directory; BENCHMARK_ENGINE and BENCHMARK_PRECISION select the computation. Each server
loads this module in each of its worker processes.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import cv2

from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.task import Task
from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.settings import EngineKind
from mammopipe.processing.read_config import ReadConfig
from mammopipe.training.model.architecture import Precision


@cache
def predictor() -> Predictor:
    """Return the predictor; it is loaded and warmed up at first use, on one thread like our server's."""
    cv2.setNumThreads(1)
    engine = EngineSettings(EngineKind(os.environ["BENCHMARK_ENGINE"]), 1, Precision(os.environ["BENCHMARK_PRECISION"]))
    made = Predictor(Path(os.environ["BENCHMARK_MODEL"]), engine=engine)
    made.warm_up()
    return made


def judge(body: bytes) -> str:
    """Return the JSON answer for one image."""
    task = Task("0", bytes(body), RequestOptions(), AnswerType.JSON, content_type="image/x-portable-graymap")
    return answer(predictor(), task, ReadConfig()).body.decode()


def torchserve(data: Any, context: Any) -> list[str]:
    """Answer in TorchServe's form; TorchServe calls this once without data to load the model."""
    return [judge(item["body"]) for item in data] if data else [str(predictor().info.id)]


def _transformer() -> Any:
    from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
    from sagemaker_inference.transformer import Transformer

    class Handler(DefaultInferenceHandler):  # type: ignore[misc]
        def default_model_fn(self, model_dir: str, context: Any = None) -> Predictor:
            return predictor()

        def default_input_fn(self, input_data: bytes, content_type: str, context: Any = None) -> bytes:
            return input_data

        def default_predict_fn(self, data: bytes, model: Predictor, context: Any = None) -> str:
            return judge(data)

        def default_output_fn(self, prediction: str, accept: str, context: Any = None) -> str:
            return prediction

    return Transformer(Handler())


class _Mms:
    """The sagemaker-inference toolkit, created once per worker."""

    transformer: Any = None


def mms(data: Any, context: Any) -> Any:
    """Answer in multi-model-server's form, through the sagemaker-inference toolkit."""
    _Mms.transformer = _Mms.transformer or _transformer()
    if not data:
        _Mms.transformer.validate_and_initialize(model_dir=os.environ["BENCHMARK_MODEL"], context=context)
        return None
    return _Mms.transformer.transform(data, context)
