"""What a page says and shows, as a reader's browser has it."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np


def everything_written(browser):
    """All text of a page, inside of its shadow roots too."""
    return browser.value("""(() => {
        const found = [];
        const walk = node => {
            if (node.nodeType == 3) found.push(node.textContent);
            for (const child of [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes]) {
                if (!["SCRIPT", "STYLE"].includes(child.nodeName)) walk(child);
            }
        };
        walk(document.body);
        return found.join(" ");
    })()""")


def under_the_pointer(browser, x, y):
    """What the page says of a place of the window."""
    browser.point(x - 3, y - 3)
    browser.point(x, y)
    browser.settle()
    return " ".join(everything_written(browser).replace(",", "").split())


def window(browser):
    """What the window shows: (slow, fast, 3) from 0 to 1."""
    return matplotlib.image.imread(io.BytesIO(browser.screenshot()))[..., :3]


def is_drawn(browser):
    """Whether the window shows more than empty paper: many colours, on a good part of it."""
    shown = (window(browser) * 255).astype(int)
    colours, counts = np.unique(shown.reshape(-1, 3), axis=0, return_counts=True)
    return len(colours) > 20 and counts.max() < 0.97 * counts.sum()


def model_state(browser, kind, index, expression):
    """What an expression of `m` is, of the document's model of a kind with a number."""
    models = f"Array.from(Bokeh.documents[0]._all_models.values()).filter(m => m.type == '{kind}')"
    return browser.value(f"(m => {expression})({models}[{index}])")
