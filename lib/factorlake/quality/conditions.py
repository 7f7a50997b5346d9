"""Boolean conditions in conf: a small typed language, parsed here and written out anew as Spark SQL.

Nothing of the text reaches Spark as it stands. Allowed are columns, literals, comparison, arithmetic and
logical operators, between, in, like, rlike, is null, and the functions of `FUNCTIONS`. A column that is not
one of the mapped five is a raw one and is text; compared with a number it is read as one, and is null when it
is none, so that no value can fail a job. Division by zero is null too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, cast

from factorlake.errors import ConfigError

Kind = Literal["text", "number", "time", "boolean", "null"]
TokenKind = Literal["number", "name", "quoted", "text", "symbol", "end"]

MAPPED: dict[str, Kind] = {
    "user_id": "text",
    "item_id": "text",
    "event_type": "text",
    "value": "number",
    "event_time": "time",
}
FUNCTIONS: dict[str, tuple[tuple[Kind, ...], Kind]] = {
    "length": (("text",), "number"),
    "lower": (("text",), "text"),
    "upper": (("text",), "text"),
    "trim": (("text",), "text"),
    "abs": (("number",), "number"),
    "number": (("text",), "number"),
    "coalesce": ((), "null"),
}
WORDS = {"and", "or", "not", "between", "in", "like", "rlike", "is", "null", "true", "false"}
COMPARISONS = ("<=", ">=", "<>", "!=", "==", "=", "<", ">")
ARITHMETIC = {"+": "try_add", "-": "try_subtract", "*": "try_multiply", "/": "try_divide", "%": "try_mod"}
MAX_LENGTH, MAX_DEPTH = 10_000, 50

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|`(?P<quoted>[^`]+)`"
    r"|'(?P<text>(?:[^']|'')*)'|(?P<symbol><=|>=|<>|!=|==|[-+*/%=<>(),]))"
)


class Term(NamedTuple):
    """A parsed piece: its type, its Spark SQL, and its text when it is a text literal."""

    kind: Kind
    sql: str
    literal: str | None = None


class Condition(NamedTuple):
    """A compiled condition: its Spark SQL, and the regular expressions in it, which Spark alone can check."""

    sql: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class _Token:
    kind: TokenKind
    text: str


def compile_condition(condition: str, name: str) -> Condition:
    """Compile a boolean condition over the `MAPPED` columns and the map column ``fields``.

    Raises
    ------
    ConfigError : what the language does not know, with its name and the rule's.
    """
    if len(condition) > MAX_LENGTH:
        raise ConfigError(f"rule {name!r}: the condition is longer than {MAX_LENGTH} characters")
    parser = _Parser(condition, name)
    term = parser.either(0)
    parser.expect_end()
    if term.kind != "boolean":
        parser.fail(f"it is a {term.kind}, not true or false")
    return Condition(term.sql, tuple(parser.patterns))


def anchored(pattern: str) -> str:
    r"""Return a Java pattern whose $ and \Z mean the very end, not also the place before a trailing line end.

    Patterns in multi-line mode, where $ means a line's end, are returned as they are.
    """
    if re.search(r"\(\?[a-zA-Z]*m", pattern):
        return pattern
    result, index, in_class = [], 0, False
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            pair = pattern[index : index + 2]
            result.append(r"\z" if pair == r"\Z" else pair)
            index += 2
            continue
        if character in "[]":
            in_class = character == "["
        result.append(r"\z" if character == "$" and not in_class else character)
        index += 1
    return "".join(result)


def sql_text(text: str) -> str:
    """Return ``text`` as a Spark SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Parser:
    """Recursive descent; each method reads one level of precedence, loosest first."""

    def __init__(self, condition: str, name: str) -> None:
        self.name, self.condition = name, condition
        self.patterns: list[str] = []
        self.tokens = self._tokens()
        self.at = 0

    def fail(self, what: str) -> NoReturn:
        # Not the condition itself, which may hold the ids of users.
        raise ConfigError(f"rule {self.name!r}: in the condition, {what}")

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        text = self.condition.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail(f"{text[at:].strip()[:20]!r} is not understood")
            kind = cast(TokenKind, match.lastgroup)
            value = match.group(kind)
            tokens.append(_Token(kind, value.replace("''", "'") if kind == "text" else value))
            at = match.end()
        tokens.append(_Token("end", ""))
        return tokens

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *words: str) -> str | None:
        """Read the next token when it is one of these symbols or reserved words."""
        token = self.next
        word = token.text.lower() if token.kind in ("symbol", "name") else ""
        if word and word in words:
            self.at += 1
            return word
        return None

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            self.fail(f"{symbol!r} is missing before {self.next.text or 'the end'!r}")

    def expect_end(self) -> None:
        if self.next.kind != "end":
            self.fail(f"{self.next.text!r} is not expected where it stands")

    def either(self, depth: int) -> Term:
        if depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} levels are nested")
        term = self.both(depth)
        while self.take("or"):
            term = self._logical(term, "OR", self.both(depth))
        return term

    def both(self, depth: int) -> Term:
        term = self.negation(depth)
        while self.take("and"):
            term = self._logical(term, "AND", self.negation(depth))
        return term

    def _logical(self, left: Term, word: str, right: Term) -> Term:
        for side in (left, right):
            self._want(side, "boolean", word.lower())
        return Term("boolean", f"({left.sql} {word} {right.sql})")

    def negation(self, depth: int) -> Term:
        if depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} levels are nested")
        if self.take("not"):
            term = self.negation(depth + 1)
            self._want(term, "boolean", "not")
            return Term("boolean", f"(NOT {term.sql})")
        return self.comparison(depth)

    def comparison(self, depth: int) -> Term:
        left = self.sum(depth)
        symbol = self.take(*COMPARISONS)
        if symbol:
            return self._compare(left, symbol, self.sum(depth))
        if self.take("is"):
            negated = "NOT " if self.take("not") else ""
            if not self.take("null"):
                self.fail("after `is` comes null or not null")
            return Term("boolean", f"({left.sql} IS {negated}NULL)")
        negated = "NOT " if self.take("not") else ""
        word = self.take("between", "in", "like", "rlike")
        if word == "between":
            low = self.sum(depth)
            if not self.take("and"):
                self.fail("`between` needs `and`")
            high = self.sum(depth)
            term = Term("boolean", f"({self._compare(left, '>=', low).sql} AND {self._compare(left, '<=', high).sql})")
        elif word == "in":
            self.expect("(")
            choices = [self._compare(left, "=", self.sum(depth)).sql]
            while self.take(","):
                choices.append(self._compare(left, "=", self.sum(depth)).sql)
            self.expect(")")
            term = Term("boolean", "(" + " OR ".join(choices) + ")")
        elif word:
            term = self._pattern(left, word, self.sum(depth))
        elif negated:
            self.fail("after `not` comes between, in, like or rlike")
        else:
            return left
        return Term("boolean", f"({negated}{term.sql})") if negated else term

    def _pattern(self, left: Term, word: str, pattern: Term) -> Term:
        self._want(left, "text", word)
        if pattern.literal is None:
            self.fail(f"`{word}` needs its pattern in quotes")
        text = pattern.literal or ""
        if word == "like" and "\\" in text:
            self.fail("a pattern of `like` cannot hold a backslash; use rlike")
        if word == "rlike":
            text = anchored(text)
            self.patterns.append(text)
        return Term("boolean", f"({left.sql} {word.upper()} {sql_text(text)})")

    def _compare(self, left: Term, symbol: str, right: Term) -> Term:
        kinds = {left.kind, right.kind} - {"null"}
        if "time" in kinds:
            left, right = self._as_time(left), self._as_time(right)
        elif "number" in kinds:
            left, right = self._as_number(left), self._as_number(right)
        elif len(kinds) > 1:
            self.fail(f"a {left.kind} is compared with a {right.kind}")
        symbol = {"==": "=", "!=": "<>"}.get(symbol, symbol)
        return Term("boolean", f"({left.sql} {symbol} {right.sql})")

    def sum(self, depth: int) -> Term:
        term = self.product(depth)
        while symbol := self.take("+", "-"):
            term = self._arithmetic(term, symbol, self.product(depth))
        return term

    def product(self, depth: int) -> Term:
        term = self.atom(depth)
        while symbol := self.take("*", "/", "%"):
            term = self._arithmetic(term, symbol, self.atom(depth))
        return term

    def _arithmetic(self, left: Term, symbol: str, right: Term) -> Term:
        left, right = self._as_number(left), self._as_number(right)
        return Term("number", f"{ARITHMETIC[symbol]}({left.sql}, {right.sql})")

    def atom(self, depth: int) -> Term:
        if depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} levels are nested")
        if self.take("("):
            term = self.either(depth + 1)
            self.expect(")")
            return term._replace(literal=None)
        if self.take("-"):
            return Term("number", f"(- {self._as_number(self.atom(depth + 1)).sql})")
        for word, term in (
            ("true", Term("boolean", "TRUE")),
            ("false", Term("boolean", "FALSE")),
            ("null", Term("null", "NULL")),
        ):
            if self.take(word):
                return term
        token = self.next
        self.at += 1
        if token.kind == "number":
            return Term("number", f"CAST({sql_text(token.text)} AS DOUBLE)")
        if token.kind == "text":
            return Term("text", sql_text(token.text), token.text)
        if token.kind == "quoted":
            return _column(token.text)
        if token.kind == "name" and token.text.lower() not in WORDS:
            return self._call(token.text, depth) if self.take("(") else _column(token.text)
        self.at -= 1
        self.fail(f"{token.text or 'the end'!r} is not expected where it stands")

    def _call(self, function: str, depth: int) -> Term:
        word = function.lower()
        if word not in FUNCTIONS:
            self.fail(f"the function {function!r} is not allowed; allowed are {', '.join(sorted(FUNCTIONS))}")
        arguments = [self.either(depth + 1)]
        while self.take(","):
            arguments.append(self.either(depth + 1))
        self.expect(")")
        if word == "coalesce":
            return self._coalesce(arguments)
        kinds, result = FUNCTIONS[word]
        if len(arguments) != len(kinds):
            self.fail(f"{function} takes {len(kinds)} argument, not {len(arguments)}")
        if word == "number":
            return self._as_number(arguments[0])
        for argument, kind in zip(arguments, kinds, strict=True):
            if kind == "text":
                self._want(argument, kind, word)
        inner = self._as_number(arguments[0]) if kinds[0] == "number" else arguments[0]
        call = f"{word}({inner.sql})"
        return Term(result, f"CAST({call} AS DOUBLE)" if word == "length" else call)

    def _coalesce(self, arguments: list[Term]) -> Term:
        kinds: list[Kind] = sorted({argument.kind for argument in arguments} - {"null"})
        if kinds == ["number", "text"]:
            arguments, kinds = [self._as_number(argument) for argument in arguments], ["number"]
        if len(kinds) > 1:
            self.fail(f"coalesce mixes {' and '.join(kinds)}")
        return Term(kinds[0] if kinds else "null", f"coalesce({', '.join(term.sql for term in arguments)})")

    def _want(self, term: Term, kind: Kind, user: str) -> None:
        if term.kind not in (kind, "null"):
            self.fail(f"`{user}` needs a {kind}, not a {term.kind}")

    def _as_number(self, term: Term) -> Term:
        if term.kind == "text":
            # NaN is greater than any number to Spark; here it is no number.
            return Term("number", f"nullif(try_cast({term.sql} AS DOUBLE), CAST('NaN' AS DOUBLE))")
        self._want(term, "number", "arithmetic or comparison")
        return term

    def _as_time(self, term: Term) -> Term:
        if term.literal is not None:
            return Term("time", f"try_to_timestamp({term.sql})")
        self._want(term, "time", "a comparison of times")
        return term


def _column(name: str) -> Term:
    if name in MAPPED:
        return Term(MAPPED[name], f"`{name}`")
    return Term("text", f"try_element_at(`fields`, {sql_text(name)})")
