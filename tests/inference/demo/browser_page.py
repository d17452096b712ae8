"""The demo page in a browser, and measures of what it shows."""

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PERSON = "DOE^JANE"


DROP = """(files) => {
  const held = new DataTransfer();
  for (const [name, text] of files) {
    held.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
  }
  return held;
}"""


class Visit:
    """The page in a browser context of its own, with its console messages and its requests."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[Any] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.goto(url)

    def drop(self, *files: bytes, name: str = "DOE^JANE.dcm") -> Any:
        """Drop files on the page and return the server's first answer, once all is shown."""
        packed = [[name, base64.b64encode(data).decode()] for data in files]
        held = self.page.evaluate_handle(DROP, packed)
        with self.page.expect_response("**/invocations*") as answer:
            self.page.dispatch_event("#stage", "drop", {"dataTransfer": held})
        self.settle()
        return answer.value.json()

    def settle(self) -> None:
        self.page.wait_for_selector("#progress:empty", state="attached")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def picture(self) -> NDArray[np.uint8]:
        """Return a screenshot of the selected image, BGR."""
        shown = cv2.imdecode(
            np.frombuffer(self.page.locator(".selected .layers").screenshot(), np.uint8), cv2.IMREAD_COLOR
        )
        return np.asarray(shown, np.uint8)


def colourful(picture: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are not grey."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return float((spread > 24).mean())


def box(element: Any) -> dict[str, float]:
    found = element.bounding_box()
    assert found is not None
    return dict(found)
