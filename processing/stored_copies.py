"""The settings of the copies of training images that Augment stores, for the configuration and for the job."""

from pydantic import Field, model_validator

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings


class StoredCopies(Settings):
    """The number of stored copies of the training images."""

    copies: int = Field(
        default=1,
        ge=0,
        description="copies per image of the most frequent class; rarer classes get more, up to as many images; 0 "
        "stores no copy at all, which suits training.augment and training.sampling (parameter AugmentationCopies)",
    )
    balance: bool = Field(
        default=True,
        description="whether the rarer classes are brought to the size of the most frequent one by copies",
    )
    rarer_only: bool = Field(
        default=False,
        description="whether only images of the rarer classes are copied, up to the size of the most frequent class; "
        "needs copies = 1 and balance",
    )

    @model_validator(mode="after")
    def _check(self) -> "StoredCopies":
        """Refuse numbers of copies that contradict `rarer_only`."""
        if self.rarer_only and (self.copies != 1 or not self.balance):
            raise ConfigError(
                f"rarer_only=true with copies={self.copies}, balance={str(self.balance).lower()}: it needs copies=1 "
                "and balance=true, since the most frequent class gets no copy"
            )
        return self
