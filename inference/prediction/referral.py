"""Decides whether a case is referred to a reader.

Referrals must be rare enough to be acted on. Only conditions that make the score meaningless cause a referral;
conditions that make it less certain cause a warning. For the flags of `mammopipe.processing.breast.segmentation`:

    chest-side-against-laterality   Referral. The image is mirrored or has the wrong laterality. No later step catches
                                    an answer for the wrong breast.
    chest-side-unclear              Referral only if the laterality is unknown: the network may have seen the image
                                    mirrored.
    skin-cut-off with coverage-high Referral. The image is full and has no air beyond the skin, so tissue was not imaged
                                    or the outline is wrong; 4 of the 322 films of MIAS.
    coverage-high alone             No referral: the breast is large.
    coverage-low                    No referral by itself: small breasts cover a quarter of a large detector or less.
                                    Below `LEAST_COVERAGE` most of the breast has been lost, which is a referral.
    skin-cut-off, pectoral-not-found, laterality-inferred
                                    No referral: these concern positioning or labels; the score describes what is seen.

Heat outside the breast causes no referral either: it is known only if the request asks for a heatmap, and a referral
must not depend on that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.contract.exclusions import Action, Exclusion
from mammopipe.inference.contract.schema import Reason, Referral, ReferralCode
from mammopipe.training.model.reference import Reference

LEAST_COVERAGE = 0.08
"""Share of the image below which the segmented area is hardly a whole breast: a third of the limit of coverage-low."""
_SIDE = "the chest wall is not on the side that the laterality states: the image is mirrored or of the other breast"
_TURNED = "neither the picture nor a label shows which breast this is; it may have been read mirrored"
_FULL = "the breast fills the image and runs into its far edge: tissue is missing, or the outline is wrong"


def entropy(probabilities: Iterable[float]) -> float:
    """Return the Shannon entropy in nats of probabilities that sum to 1."""
    return max(0.0, -sum(share * math.log(share) for share in probabilities if share > 0))


def judge(
    quality: Mapping[str, Any],
    *,
    side_known: bool,
    entropy_nats: float,
    features: NDArray[np.float64],
    reference: Reference | None,
    exclusions: Sequence[Exclusion] = (),
) -> Referral:
    """Return whether one image is referred to a reader, with the reasons.

    Args:
        quality: Quality measurements of the segmentation.
        side_known: Whether the laterality is known.
        entropy_nats: Entropy of the class probabilities, in nats.
        features: (channels,) spatial means of the network's feature maps.
        reference: The model's reference; without one, only segmentation and exclusions cause a referral, and the
            answer carries a warning.
        exclusions: Exclusions that apply to the image.
    """
    reasons = [
        Reason(code=ReferralCode.EXCLUDED, message=f"{each.flag}: {each.reason}")
        for each in exclusions
        if each.action is Action.REFER
    ]
    reasons += [Reason(code=ReferralCode.SEGMENTATION, message=text) for text in _untrustworthy(quality, side_known)]
    if reference is not None:
        reasons += _unlike_validation(entropy_nats, features, reference)
    return Referral(refer=bool(reasons), reasons=reasons)


def _untrustworthy(quality: Mapping[str, Any], side_known: bool) -> list[str]:
    flags, coverage = set(quality["flags"]), float(quality["coverage"])
    conditions = {
        _SIDE: "chest-side-against-laterality" in flags,
        _TURNED: "chest-side-unclear" in flags and not side_known,
        _FULL: {"coverage-high", "skin-cut-off"} <= flags,
        f"the segmented area covers {coverage:.1%} of the image; a whole breast covers more": coverage < LEAST_COVERAGE,
    }
    return [text for text, holds in conditions.items() if holds]


def _unlike_validation(nats: float, features: NDArray[np.float64], reference: Reference) -> list[Reason]:
    reasons: list[Reason] = []
    if nats > reference.entropy_limit:
        text = (
            f"the model is undecided between the classes: entropy {nats:.3f} nats, limit {reference.entropy_limit:.3f}"
        )
        reasons.append(Reason(code=ReferralCode.UNCERTAIN, message=text))
    strangeness = reference.strangeness(features)
    if strangeness > reference.strangeness_limit:
        text = (
            f"the image is unlike those that the model was trained on: strangeness {strangeness:.3g}, "
            f"limit {reference.strangeness_limit:.3g}"
        )
        reasons.append(Reason(code=ReferralCode.OUT_OF_DISTRIBUTION, message=text))
    return reasons


def of_images(referrals: Sequence[tuple[int, Referral]]) -> Referral:
    """Return the referral of a breast or an exam; one referred image suffices.

    A breast has not been judged if one of its views cannot be judged.

    Args:
        referrals: Index and referral of each image.
    """
    reasons = [
        Reason(code=reason.code, message=f"image {index}: {reason.message}")
        for index, referral in referrals
        for reason in referral.reasons
    ]
    return Referral(refer=bool(reasons), reasons=reasons)
