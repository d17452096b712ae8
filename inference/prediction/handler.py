"""Handles one request in a worker: takes the body's bytes, returns the answer's bytes and the facts for the log."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mammopipe.inference.contract.errors import (
    BadBodyError,
    BadOptionError,
    DuplicateImageError,
    ExcludedViewError,
    NotAcceptableError,
    NotAMammogramViewError,
    RequestError,
)
from mammopipe.inference.contract.media_types import AnswerType, pack_attributes
from mammopipe.inference.contract.request import DicomResult, OverlayLayer, RequestOptions, join_options
from mammopipe.inference.contract.schema import (
    Answer,
    Decision,
    ExamAnswer,
    ImageAnswer,
    QualityWarning,
    Referral,
    RefusedView,
    Skipped,
    SkipReason,
)
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.payload.digest import Digest
from mammopipe.inference.payload.exam_body import Payload, ReceivedImage, unpack
from mammopipe.inference.payload.identity import check_exam
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.inference.prediction.exam import Combined, ViewScore, left_out, of_unseen_breast
from mammopipe.inference.prediction.heatmap import eight_bits, overlay, png
from mammopipe.inference.prediction.image_answer import Clock, JudgedImage, RequestContext
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.prediction.same_exposure import Exposures
from mammopipe.processing.images.mammogram import ReadConfig

_MOST_NAMED = 20
"""Most skipped files that a warning names; `skipped` of the answer has all."""
_OF_UNKNOWN_KIND = "the file's type is unknown, and it may be a damaged image"


def answer(predictor: Predictor, task: Task, reading: ReadConfig, digest: Digest | None = None) -> Reply:
    """Return the reply to a task.

    Args:
        predictor: The model.
        task: The request.
        reading: Limits and settings of the image reader.
        digest: SHA-256 of the body; it is started before the forward pass of a single image.

    Raises:
        RequestError: The body, an image or an option cannot be used.
    """
    clock = Clock()
    payload = clock.time("unpack", lambda: unpack(task.content_type, task.body, HandlerLimits.of(task)))
    options = join_options(task.options, payload.options)
    _check(task.form, options, payload)
    if options.target not in predictor.classes:
        raise BadOptionError(
            "bad_option", f"option target={options.target}: this model's classes are {', '.join(predictor.classes)}"
        )
    work = _RequestHandler(task, RequestContext(predictor, reading, options, clock))
    if payload.is_exam:
        return work.exam(payload)
    return work.image(replace(payload.sources[0], digest=digest, laterality=options.laterality, view=options.view))


def _check(form: AnswerType, options: RequestOptions, payload: Payload) -> None:
    """Refuse options that have no meaning for this body or this form of answer."""
    if form is AnswerType.ZIP and options.result is not DicomResult.ALL and "result" in options.model_fields_set:
        raise BadOptionError("bad_option", f"option 'result' is {DicomResult.ALL} where Accept is {AnswerType.ZIP}")
    if "result" in options.model_fields_set and form not in (AnswerType.DICOM, AnswerType.ZIP):
        raise BadOptionError("bad_option", f"option 'result' needs Accept: {AnswerType.DICOM}")
    if "overlay" in options.model_fields_set and form is not AnswerType.OVERLAY:
        raise BadOptionError("bad_option", f"option 'overlay' needs Accept: {AnswerType.OVERLAY}")
    if not payload.is_exam:
        if "priors" in options.model_fields_set:
            raise BadOptionError("bad_option", "option 'priors' applies to exams only; this request has a single image")
        return
    if form is AnswerType.OVERLAY or options.result is DicomResult.OVERLAY:
        raise NotAcceptableError("not_acceptable", "an overlay shows a single image; send the images one by one")
    for name in ("laterality", "view"):
        if getattr(options, name) is not None:
            raise BadOptionError(
                "bad_option", f"option {name!r} applies to a single image; in an exam, state it for each image"
            )


@dataclass(frozen=True)
class _RequestHandler:
    """Answers one task, with the model and the options in its context."""

    task: Task
    context: RequestContext

    @property
    def result(self) -> DicomResult | None:
        """The requested DICOM result; `None` for other forms of answer."""
        if self.task.form is AnswerType.ZIP:
            return DicomResult.ALL
        return self.context.options.result if self.task.form is AnswerType.DICOM else None

    @property
    def form(self) -> AnswerType:
        """The media type of the answer; all results together are always a ZIP archive."""
        return AnswerType.ZIP if self.result is DicomResult.ALL else self.task.form

    @property
    def shows_regions(self) -> bool:
        """Whether the answer holds the heatmap's regions: if requested, or if the DICOM result is made of them."""
        made_of_regions = (DicomResult.CAD_REPORT, DicomResult.PRESENTATION_STATE, DicomResult.ALL)
        return self.context.options.heatmap or self.result in made_of_regions

    def image(self, source: ReceivedImage) -> Reply:
        """Return the reply to one image."""
        options = self.context.options
        drawn = self.task.form is AnswerType.OVERLAY and options.overlay is OverlayLayer.HEAT
        drawn = drawn or self.result is DicomResult.OVERLAY
        judged = self.context.image(source, explain=self.shows_regions or drawn)
        body = self.context.clock.time("encode", lambda: self._image_body(judged, drawn))
        predicted = judged.prediction
        attributes = self._attributes(predicted.malignancy_score, predicted.decision, predicted.referral)
        return Reply(body, self.form, attributes, _image_facts(judged, self.context))

    def _image_body(self, image: JudgedImage, drawn: bool) -> bytes:
        if self.task.form is AnswerType.OVERLAY:
            pixels = image.pixels
            return png(
                overlay(pixels, image.evidence.heat) if drawn and image.evidence is not None else eight_bits(pixels)
            )
        heatmap = image.heatmap(self.context.options.target) if self.shows_regions else None
        answer = Answer(**self._envelope(), **image.scores(heatmap))
        if self.result is None:
            return answer.model_dump_json().encode()
        return self._dicom([image.source.data], answer, lambda: [self._capture(image, answer)])

    def _capture(self, image: JudgedImage, answer: Answer) -> bytes:
        from mammopipe.inference.dicom.results import overlay_capture

        if image.evidence is None:
            raise ValueError("an overlay needs an image with a heatmap")
        return overlay_capture(image.source.data, overlay(image.pixels, image.evidence.heat), answer)

    def _dicom(self, files: list[bytes], answer: Answer | ExamAnswer, overlays: Callable[[], list[bytes]]) -> bytes:
        """Return the requested DICOM result; `overlays` makes the secondary captures if the result needs them."""
        # Imported here because loading highdicom takes longer than answering an image.
        from mammopipe.inference.dicom import results

        if self.result is DicomResult.OVERLAY:
            return overlays()[0]
        if self.result is DicomResult.CAD_REPORT:
            return results.mammography_cad_report(files, answer)
        if self.result is DicomResult.PRESENTATION_STATE:
            return results.presentation_state(files, answer)
        if self.result is DicomResult.ALL:
            return results.all_results(files, answer, overlays())
        return results.structured_report(files, answer)

    def exam(self, payload: Payload) -> Reply:
        """Return the reply to the images of one patient's study."""
        options = self.context.options
        exam = check_exam(payload.sources, self.context.reading.limits, priors=options.priors)
        unknown = [each.index for each in payload.skipped if each.reason is SkipReason.UNKNOWN]
        # The faster number format first. If rounding could change a decision, the exam is judged again in float32.
        judged = self._judge(exam.sources, unknown, exact=self.context.predictor.exams_are_exact)
        if self.context.predictor.is_close(judged.combined):
            judged = self._judge(exam.sources, unknown, exact=True)
        combined = judged.combined
        skipped = sorted((*payload.skipped, *exam.skipped), key=lambda each: each.index)
        warnings = [*combined.warnings, *exam.warnings, *_of_skipped(payload.skipped)]
        warnings += [
            QualityWarning(code="refused-view", message=f"image {view.index} is in no score: {view.message}")
            for view in judged.refused
        ]
        answer = ExamAnswer(
            **self._envelope(),
            images=judged.images,
            refused=judged.refused,
            skipped=skipped,
            breasts=list(combined.breasts),
            exam=combined.exam,
            warnings=warnings,
        )
        body = self.context.clock.time("encode", lambda: self._exam_body(judged, answer))
        attributes = self._attributes(answer.exam.malignancy_score, answer.exam.decision, answer.exam.referral)
        return Reply(body, self.form, attributes, _exam_facts(answer, self.context))

    def _judge(self, sources: tuple[ReceivedImage, ...], unknown: list[int], *, exact: bool) -> "_JudgedExam":
        """Judge the images one after the other, so that the pixels of only one are in memory.

        Images that do not show one whole breast, or that the exclusions leave out, are in no score. The exam is also
        referred for the files at the indices in `unknown`, because they may be damaged images.

        Raises:
            DuplicateImageError: Two images are of one exposure: as PNG and as DICOM, with other grey levels, under
                another instance UID, or mirrored.
            RequestError: An image is damaged, the exclusions refuse the exam, or every image is refused.
        """
        judged = _JudgedExam()
        refusal: RequestError | None = None
        views: list[ViewScore] = []
        exposures = Exposures()
        for source in sources:
            try:
                image = self.context.image(source, explain=self.shows_regions, exact=exact)
                scores = image.scores(image.heatmap(self.context.options.target))
                if self.result is DicomResult.ALL:
                    judged.overlays.append(self._capture(image, Answer(**self._envelope(), **scores)))
            except RequestError as error:
                placed = error.at(source.index, source.place)
                if not _leaves_exam(error):
                    raise placed from None
                refusal = refusal or placed
                judged.refused.append(_refused(error, source))
                continue
            if exposures.has(image.mammogram, image.prediction.prepared):
                raise DuplicateImageError("duplicate_image", "the same picture as an earlier image").at(
                    source.index, source.place
                )
            judged.sources.append(source)
            judged.images.append(ImageAnswer(index=source.index, **scores))
            views.append(image.prediction.as_view)
        if not views:
            raise refusal or BadBodyError("no_images", "an exam needs at least one image")
        indices = [source.index for source in judged.sources]
        sides = [view.laterality for view in views]
        missing = [
            left_out(view.index, view.laterality, view.message)
            if view.flag
            else of_unseen_breast(view.index, sides, view.message)
            for view in judged.refused
        ]
        missing += [left_out(index, None, _OF_UNKNOWN_KIND) for index in unknown]
        judged.combined = self.context.predictor.combine(
            views, self.context.options.operating_point, indices, [view for view in missing if view is not None]
        )
        return judged

    def _exam_body(self, judged: "_JudgedExam", answer: ExamAnswer) -> bytes:
        if self.result is None:
            return answer.model_dump_json().encode()
        return self._dicom([source.data for source in judged.sources], answer, lambda: judged.overlays)

    def _envelope(self) -> dict[str, Any]:
        return {
            "request_id": self.task.request_id,
            "model": self.context.predictor.info,
            "timings_ms": dict(self.context.clock.spent),
        }

    def _attributes(self, score: float, decision: Decision | None, referral: Referral) -> str:
        values = {"request_id": self.task.request_id, "malignancy_score": f"{score:.2f}"}
        if decision is not None:
            values |= {"operating_point": decision.operating_point, "finding": decision.finding}
        return pack_attributes(values | {"refer": str(referral.refer).lower()})


@dataclass
class _JudgedExam:
    """The judged images of an exam."""

    sources: list[ReceivedImage] = field(default_factory=list)
    images: list[ImageAnswer] = field(default_factory=list)
    """Answers for the sources, in their order."""
    overlays: list[bytes] = field(default_factory=list)
    """The sources' overlays as DICOM files, if all results are requested."""
    refused: list[RefusedView] = field(default_factory=list)
    combined: Combined = field(init=False)


def _leaves_exam(error: RequestError) -> bool:
    """Return whether an exam is judged without the image of this error."""
    return error.leaves_exam if isinstance(error, ExcludedViewError) else isinstance(error, NotAMammogramViewError)


def _refused(error: RequestError, source: ReceivedImage) -> RefusedView:
    laterality = error.laterality if isinstance(error, ExcludedViewError) else None
    flag = (error.detail or {}).get("flag")
    message = error.at(source.index, source.place).message
    return RefusedView(index=source.index, code=error.code, message=message, flag=flag, laterality=laterality)


def _of_skipped(skipped: tuple[Skipped, ...]) -> list[QualityWarning]:
    if not skipped:
        return []
    named = [f"{each.place}: {each.reason}" for each in skipped[:_MOST_NAMED]]
    more = [f"and {len(skipped) - _MOST_NAMED} more"] if len(skipped) > _MOST_NAMED else []
    message = f"files that are not images were skipped: {'; '.join(named + more)}"
    return [QualityWarning(code="skipped-files", message=message)]


def _image_facts(image: JudgedImage, context: RequestContext) -> dict[str, Any]:
    """Return the facts about one image for the log: sizes, scores and codes."""
    rows, columns = image.pixels.shape
    predicted = image.prediction
    return {
        "images": 1,
        "rows": rows,
        "columns": columns,
        "probabilities": {str(label): round(value, 6) for label, value in predicted.probabilities.items()},
        **_verdict(predicted.malignancy_score, predicted.decision, predicted.referral),
        "warnings": [warning.code for warning in predicted.warnings],
        "engine": context.predictor.engine,
        "ms": dict(context.clock.spent),
    }


def _exam_facts(answer: ExamAnswer, context: RequestContext) -> dict[str, Any]:
    """Return the facts about an exam for the log: size and score of each image, and the exam's result."""
    of_images = [warning.code for image in answer.images for warning in image.warnings]
    return {
        "images": len(answer.images),
        "refused": len(answer.refused),
        "rows": [image.image.rows for image in answer.images],
        "columns": [image.image.columns for image in answer.images],
        "scores": [round(image.malignancy_score, 4) for image in answer.images],
        **_verdict(answer.exam.malignancy_score, answer.exam.decision, answer.exam.referral),
        "warnings": sorted({*of_images, *(warning.code for warning in answer.warnings)}),
        "engine": context.predictor.engine,
        "ms": dict(context.clock.spent),
    }


def _verdict(score: float, decision: Decision | None, referral: Referral) -> dict[str, Any]:
    return {
        "score": round(score, 4),
        "finding": str(decision.finding) if decision else None,
        "refer": referral.refer,
        "reasons": sorted({str(reason.code) for reason in referral.reasons}),
    }
