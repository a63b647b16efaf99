"""The page for people at ``/``: one file, nothing fetched from elsewhere, and a policy that would not allow it."""

import base64
import functools
import hashlib
import re
from pathlib import Path

from starlette.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


@functools.cache
def render_page() -> HTMLResponse:
    """Return the page with a content security policy that admits exactly its own script and style."""
    html = PAGE.read_text(encoding="utf-8")
    script, style = (_hash_element(html, element) for element in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return HTMLResponse(html, headers=headers)


def _hash_element(html: str, element: str) -> str:
    """Return the CSP source of the page's one inline element of this name."""
    found = re.search(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    if found is None:
        raise ValueError(f"page.html has no inline <{element}>; add it, or change the policy in page.py")
    return "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
