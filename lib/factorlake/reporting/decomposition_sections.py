"""How a matrix was taken apart, as a section of the report."""

from __future__ import annotations

from factorlake.reporting.content import RunReport, Topic
from factorlake.reporting.markup import Html, captioned, join, name, section, table, tag
from factorlake.reporting.text import count, figure, printable, share

METHODS = {
    "svd": "Truncated singular value decomposition",
    "rpca": "Robust principal component analysis",
    "nmf": "Non-negative factorization",
}
# With the limit of a topic's words this keeps the page small however many topics there are.
MAX_TOPICS, MAX_WORDS = 100, 20


def decomposition(report: RunReport) -> Html:
    """Facts, drawings and topics of a decomposition."""
    found = report.decomposition
    if found is None:
        return Html("")
    facts = table("In figures", ("what", "figure"), [(what, printable(value, 80)) for what, value in found.facts], (1,))
    drawings = [captioned(drawing.markup, drawing.caption) for drawing in found.drawings]
    return section(
        METHODS.get(found.method, printable(found.method, 30)),
        f"Of {printable(found.source, 200)}.",
        *drawings,
        facts,
        _topics(found.topics),
    )


def _topics(topics: tuple[Topic, ...]) -> Html:
    return table(
        "Topics: the columns that weigh most in each factor, and the factor's share of all",
        ("topic", "share", "columns"),
        [
            (count(number), share(topic.share, 1), _words(topic))
            for number, topic in enumerate(topics[:MAX_TOPICS], start=1)
        ],
        numeric=(1,),
    )


def _words(topic: Topic) -> Html:
    words = list(zip(topic.words[:MAX_WORDS], topic.weights[:MAX_WORDS], strict=True))
    parts: list[object] = []
    for word, weight in words:
        parts += [", " if parts else "", name(printable(word, 60)), tag("span", f" {figure(weight)}", class_="tag")]
    return join(parts)
