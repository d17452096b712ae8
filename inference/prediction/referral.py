"""When a case is left to a reader: the reasons, and why some of the segmentation's flags are none.

A referral must be rare enough to be acted on, so only what makes the score itself meaningless refers; what merely
makes it less sure is a warning. Of the flags of `mammopipe.processing.breast.segmentation`:

    chest-side-against-laterality   refers: the film is mirrored or carries the wrong side, and an answer for the wrong
                                    breast is the one error that nothing later catches
    chest-side-unclear              refers only where nobody says which breast it is: then the network may have been
                                    shown the film the wrong way round
    skin-cut-off with coverage-high refers: with no air beyond the skin on a full film, either tissue was not imaged or
                                    the outline holds something else; 4 of the 322 films of MIAS
    coverage-high alone             does not: it is a large breast
    coverage-low                    does not by itself: small breasts on a large detector cover a quarter of it and
                                    less. Below `LEAST_COVERAGE` most of the breast has been lost
    skin-cut-off, pectoral-not-found, laterality-inferred: positioning, or a label; the score is of what is seen

Heat outside of the breast does not refer either, since it is known only where a heatmap is asked for, and whether a
case is referred must not depend on that.
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
"""Share of the film below which what was found is hardly a whole breast: a third of what counts as low."""
_SIDE = "the chest wall lies on the other side than the laterality says: mirrored, or of the other breast"
_TURNED = "neither the picture nor a label shows which breast this is; it may have been read the wrong way round"
_FULL = "the breast fills the film and runs into its far edge: tissue is missing, or the outline holds something else"


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
    """Return whether one image is left to a reader.

    `quality` is the segmentation's; `features` (channels,) is the spatial mean of the network's maps. A model without
    a reference refers for its segmentation alone, which its answers warn of.
    """
    reasons = [
        Reason(code=ReferralCode.EXCLUDED, message=f"{each.flag}: {each.reason}")
        for each in exclusions
        if each.action is Action.REFER
    ]
    reasons += [_segmentation(text) for text in _untrustworthy(quality, side_known)]
    if reference is not None:
        reasons += _unlike_validation(entropy_nats, features, reference)
    return Referral(refer=bool(reasons), reasons=reasons)


def _untrustworthy(quality: Mapping[str, Any], side_known: bool) -> list[str]:
    flags, coverage = set(quality["flags"]), float(quality["coverage"])
    conditions = {
        _SIDE: "chest-side-against-laterality" in flags,
        _TURNED: "chest-side-unclear" in flags and not side_known,
        _FULL: {"coverage-high", "skin-cut-off"} <= flags,
        f"what was found covers {coverage:.1%} of the film; a whole breast covers more": coverage < LEAST_COVERAGE,
    }
    return [text for text, holds in conditions.items() if holds]


def _segmentation(text: str) -> Reason:
    return Reason(code=ReferralCode.SEGMENTATION, message=text)


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
    """Return the referral of a breast or an exam from those of its images by index: one image suffices.

    A breast of which one view cannot be judged has not been judged.
    """
    reasons = [
        Reason(code=reason.code, message=f"image {index}: {reason.message}")
        for index, referral in referrals
        for reason in referral.reasons
    ]
    return Referral(refer=bool(reasons), reasons=reasons)
