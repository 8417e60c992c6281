"""What somebody sent is never part of a statement's text: SQL is constant, or made of constants and of names that have a reason here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import home

FOLDERS = ("shared", "functions", "connectors", "ops", "infra/migrations")
_SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE|ALTER|CREATE|DROP|GRANT|REVOKE|LISTEN|NOTIFY|SET LOCAL|TRUNCATE|WHERE|VALUES|FROM|LIMIT|LOCK)\b"
)
_RUNS = {"run", "exec_driver_sql", "execute", "prepare", "text"}
_TABLE = "a table's name out of contracts/topics.yaml or the code, where @on names it; never of a request"
_WHERE = "conditions that are constants each, chosen by which options were given; what they compare with are parameters"
_CLAIM = "numbers out of the settings and constants, put together once when the relay starts"
# Statements told to a person, who runs them or does not: nothing in these files runs one.
ADVICE = ("ops/doctor/tables.py", "ops/doctor/servers.py")
# (file, what stands in the text) → why it may.
ALLOWED = {
    ("shared/connection.py", "sql"): "the border itself: it hands on what its callers, all of them looked at here, wrote",
    ("shared/database.py", "sql"): "likewise",
    ("shared/database.py", "int(lock_timeout_ms)"): "a number, made one on the spot: SET takes no parameters",
    ("shared/database.py", "channel"): "the constant outbox.CHANNEL: LISTEN takes no parameters",
    ("ops/doctor/postgres_facts.py", "sql"): "a constant of the file's own, each time: its callers are methods above and below",
    ("shared/inbox.py", "table"): _TABLE,
    ("shared/inbox.py", "self._table"): _TABLE,
    ("shared/lease.py", "table"): _TABLE,
    ("shared/lease.py", "self._take"): "made of constants and the table when the function starts",
    ("shared/lease.py", "self._held"): "likewise",
    ("shared/lease.py", "self._mark"): "likewise",
    ("shared/lease.py", "self._give_back"): "likewise",
    ("shared/parking.py", "table"): _TABLE,
    ("shared/parking.py", "self._known"): "made of constants and the table when the function starts",
    ("shared/removal.py", "self._step_sql"): "made of constants and the table when the process starts",
    ("shared/removal.py", "old.table"): _TABLE,
    (
        "shared/removal.py",
        "old.at",
    ): "a constant expression of an inbox or of the outbox: shared/removal.py, connectors/outbox_relay/removal.py",
    ("shared/removal.py", "old.done"): "likewise",
    **{
        ("connectors/outbox_relay/rows.py", part): _CLAIM
        for part in (
            "bounded",
            "lock",
            "parts",
            "self._bytes_max",
            "self._rows",
            "window",
            "window - 1",
            "self._heads",
            "self._followers",
            "self._window_end",
        )
    },
    ("ops/dlq/force.py", "self.table"): _TABLE,
    ("ops/dlq/force.py", "self._from(tx)"): "made of constants and the table",
    ("ops/dlq/force.py", "sql"): "likewise, a line above",
    ("ops/dlq/inboxes.py", "inbox"): _TABLE,
    ("ops/dlq/query.py", "chosen.where(State.all)"): _WHERE,
    ("ops/dlq/query.py", "chosen.where(state)"): _WHERE,
    ("ops/dlq/states.py", "wanted.where(state)"): _WHERE,
    ("ops/dlq/selection.py", "wanted.where"): _WHERE,
    ("ops/dlq/selection.py", "chosen"): _WHERE,
    ("ops/dlq/selection.py", "chosen.replace('WHERE', _JOINED, 1)"): _WHERE,
    ("ops/inboxes.py", "shape"): "one of two constants",
    (
        "ops/inboxes.py",
        "inbox",
    ): "a consumer's inbox of contracts/topics.yaml, whose form topics.py checks; a table's name takes no parameter",
    ("ops/inboxes.py", "role"): "a role's name, quoted as an identifier by the driver",
    ("ops/migrations.py", "database"): "the name that the server itself gave, quoted as an identifier",
    ("ops/migrations.py", "name"): "a role's name, quoted as an identifier",
    ("ops/migrations.py", "_verifier(role.password())"): "base64 and digits, made here of the password: CREATE ROLE takes no parameters",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((home.CHECKOUT / folder).rglob("*.py")):
            yield str(path.relative_to(home.CHECKOUT)), ast.parse(path.read_text(encoding="utf-8"))


def strings(node: ast.AST) -> str:
    return " ".join(each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def constants(tree: ast.Module) -> dict[str, str]:
    """The module's own constants, with the text in them."""
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        found |= {of.id: strings(node) for of in targets if isinstance(of, ast.Name)}
    return found


def is_constant(node: ast.AST, known: dict[str, str]) -> bool:
    """Whether it is written in the code: a literal, a constant of a module, or such put together."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(name) | ast.Attribute(attr=name):
            return name in known or name.strip("_").isupper()
        case ast.BinOp(left, ast.Add() | ast.Mod(), right):
            return is_constant(left, known) and is_constant(right, known)
        case ast.JoinedStr(values):
            return all(is_constant(each.value if isinstance(each, ast.FormattedValue) else each, known) for each in values)
        case ast.IfExp(_, then, other):
            return is_constant(then, known) and is_constant(other, known)
        case ast.Call(ast.Attribute(of, "join" | "format" | "replace"), arguments, named):
            return all(is_constant(each, known) for each in [of, *arguments, *(each.value for each in named)])
        case ast.GeneratorExp(element, [ast.comprehension(ast.Name(name), over)]):
            return is_constant(over, known) and is_constant(element, known | {name: ""})
    return False


def parts(node: ast.AST, known: dict[str, str]) -> Iterator[str]:
    """What in a text is not constant, as it is written."""
    match node:
        case ast.JoinedStr(values):
            for each in values:
                if isinstance(each, ast.FormattedValue) and not is_constant(each.value, known):
                    yield ast.unparse(each.value)
        case ast.BinOp(left, ast.Add() | ast.Mod(), right):
            for side in (left, right):
                yield from parts(side, known) if isinstance(side, ast.BinOp | ast.JoinedStr | ast.Call) else ()
                if not isinstance(side, ast.BinOp | ast.JoinedStr | ast.Call) and not is_constant(side, known):
                    yield ast.unparse(side)
        case ast.Call(ast.Attribute(_, "format" | "format_map" | "join" | "replace"), arguments, named):
            for value in [*arguments, *(each.value for each in named)]:
                if not is_constant(value, known):
                    yield ast.unparse(value)


def is_sql(node: ast.AST, known: dict[str, str]) -> bool:
    """Whether a text that is put together looks like a statement, also by the constant that it is a form of."""
    if not isinstance(node, ast.JoinedStr | ast.BinOp) and not (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"format", "format_map", "join", "replace"}
    ):
        return False
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Add | ast.Mod):
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("format"):
        template = node.func.value
        if isinstance(template, ast.Name | ast.Attribute) and not is_constant(template, known):
            return True  # nobody sees here what it is a form of
    names = [known.get(each.id, "") for each in ast.walk(node) if isinstance(each, ast.Name)]
    return _SQL.search(" ".join([strings(node), *names])) is not None


def found_in(path: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(file, part) of every statement's text that is not constant."""
    known = constants(tree)
    for node in ast.walk(tree):
        if is_sql(node, known) and path not in ADVICE:
            yield from ((path, part) for part in parts(node, known))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in _RUNS or not node.args:
            continue
        where, first = ast.unparse(node.func.value), node.args[0]
        if not re.search(r"(\btx|connection|_driver|\bsa|_server|session|^self)$", where) or (
            where == "self" and path != "ops/postgres.py"
        ):
            continue
        if isinstance(first, ast.Name | ast.Attribute | ast.IfExp) and not is_constant(first, known):
            yield path, ast.unparse(first)


FOUND = {place for path, tree in trees() for place in found_in(path, tree)}


def test_what_is_not_constant_in_a_statement_has_a_reason() -> None:
    assert sorted(FOUND - ALLOWED.keys()) == []


def test_every_reason_is_still_needed() -> None:
    assert sorted(ALLOWED.keys() - FOUND) == []


@pytest.mark.parametrize(
    "code",
    [
        "tx.run(f\"SELECT * FROM orders WHERE id = '{order_id}'\")",
        'tx.run("SELECT * FROM orders WHERE id = \'" + order_id + "\'")',
        "tx.run(\"SELECT * FROM orders WHERE id = '%s'\" % order_id)",
        'tx.run("SELECT * FROM {}".format(order_id))',
        '_FIND = "SELECT {what} FROM orders"\ndef f(tx, order_id): tx.run(_FIND.format(what=order_id))',
        "def f(tx, order_id): tx.run(order_id)",
        'sql = f"DELETE FROM {order_id}"',
        'x = "UPDATE orders SET " + ", ".join(order_id)',
    ],
)
def test_a_statement_that_takes_in_a_value_is_found(code: str) -> None:
    assert any("order_id" in part for _, part in found_in("x.py", ast.parse(code)))


def test_what_gives_advice_runs_nothing() -> None:
    for path in ADVICE:
        called = [of.func for of in ast.walk(ast.parse((home.CHECKOUT / path).read_text(encoding="utf-8"))) if isinstance(of, ast.Call)]
        assert not {of.attr for of in called if isinstance(of, ast.Attribute)} & _RUNS


def test_every_module_was_looked_at() -> None:
    assert len(list(trees())) >= len(
        [path for folder in ("shared", "functions", "connectors", "ops") for path in Path(home.CHECKOUT / folder).rglob("*.py")]
    )
