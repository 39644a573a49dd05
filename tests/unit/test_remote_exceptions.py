"""A user's exception on its way home: its type, its frames, its causes, and what cannot be pickled."""

from __future__ import annotations

import dataclasses
import linecache
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plover import serialize
from plover.bundles import collect
from plover.errors import DeviceOutOfMemory, WorkerLost
from plover.exceptions import _line_table, pack_exception, unpack_exception


def caught(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def home(error: BaseException, **more: Any) -> BaseException:
    """What arrives at the client."""
    return unpack_exception([bytes(buffer) for buffer in pack_exception(error, **more)])


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def raiser(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


class TwoArguments(Exception):
    """Cannot be unpickled by its args, for `__init__` takes others."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class HoldsLock(Exception):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()
        self.number = 4


class RefusesPickle(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("never pickled")


class BadText(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class BadRepr:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.fixture
def worker_only() -> Iterator[Callable[[], None]]:
    """A function whose file only this "worker" has: the client's linecache is emptied of it by `forget`."""
    filename = "/nowhere/worker_only.py"
    source = "def inner():\n    raise ValueError('from afar')\n\ndef outer():\n    inner()\n"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType("worker_only")
    exec(compile(source, filename, "exec"), module.__dict__)
    yield module.outer
    linecache.cache.pop(filename, None)


class TestTypeAndAttributes:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("plain"),
            KeyError("key"),
            KeyboardInterrupt(),
            SystemExit(3),
            StopIteration(5),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
            FileNotFoundError(2, "No such file", "/missing"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_builtin_ones_are_the_same(self, error: BaseException) -> None:
        found = home(error)
        assert type(found) is type(error)
        assert found.args == error.args
        assert str(found) == str(error)

    def test_an_os_error_keeps_its_number_and_file(self) -> None:
        found = home(caught(lambda: open("/nowhere/at/all")))
        assert isinstance(found, FileNotFoundError)
        assert (found.errno, found.filename) == (2, "/nowhere/at/all")

    def test_our_own_keep_their_attributes(self) -> None:
        found = home(WorkerLost("gone", signal=9))
        assert isinstance(found, WorkerLost)
        assert (str(found), found.signal, found.exit_code) == ("gone", 9, None)
        memory = home(DeviceOutOfMemory("full", free_bytes=5))
        assert isinstance(memory, MemoryError)
        assert memory.free_bytes == 5  # type: ignore[attr-defined]

    def test_one_with_another_signature_keeps_type_text_and_attributes(self) -> None:
        found = home(TwoArguments(7, "broken"))
        assert type(found) is TwoArguments
        assert (str(found), found.code) == ("broken (7)", 7)

    def test_attributes_that_cannot_travel_become_their_text(self) -> None:
        found = home(HoldsLock("held", threading.Lock()))
        assert type(found) is HoldsLock
        assert (found.number, found.args[0]) == (4, "held")
        assert "lock" in found.lock
        assert "lock" in found.args[1]

    def test_an_os_error_that_cannot_be_pickled_keeps_its_number(self) -> None:
        error = PermissionError(13, "denied")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        found = home(error)
        assert isinstance(found, PermissionError)
        assert (found.errno, found.strerror) == (13, "denied")

    def test_one_that_refuses_to_be_pickled_arrives_by_its_parts(self) -> None:
        assert type(home(RefusesPickle("x"))) is RefusesPickle

    def test_a_class_that_the_client_lacks_has_a_stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("only_there")
        exec("class Special(Exception):\n    pass\n", module.__dict__)
        monkeypatch.setitem(sys.modules, "only_there", module)
        packed = pack_exception(module.Special("what it said"))
        monkeypatch.delitem(sys.modules, "only_there")
        found = unpack_exception(packed)
        assert (type(found).__name__, type(found).__module__) == ("Special", "only_there")
        assert str(found) == "what it said"

    def test_a_text_that_cannot_be_made_is_said_so(self) -> None:
        packed = pack_exception(BadText())
        assert b"its text could not be made: ZeroDivisionError" in bytes(packed[0])
        assert type(unpack_exception(packed)) is BadText

    def test_an_argument_whose_repr_raises_does_not_stop_it(self) -> None:
        found = home(ValueError(BadRepr()))
        assert type(found).__name__ == "ValueError"

    def test_a_text_that_is_no_unicode_does_not_stop_it(self) -> None:
        """As a message that holds a file's name has it, where that name is not UTF-8."""
        found = home(ValueError(os.fsdecode(b"cannot read \xff")))
        assert type(found) is ValueError
        assert str(found).startswith("cannot read ")

    def test_a_note_that_is_no_unicode_does_not_stop_it(self) -> None:
        error = ValueError("x")
        error.add_note(os.fsdecode(b"\xff"))
        assert type(home(error)) is ValueError

    def test_notes_arrive_once(self) -> None:
        error = ValueError("x")
        error.add_note("first")
        error.add_note("second")
        assert home(error).__notes__ == ["first", "second"]
        unpicklable = HoldsLock("x")
        unpicklable.add_note("third")
        assert home(unpicklable).__notes__ == ["third"]


class Leaves:
    """Whatever is done with it ends the process."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Untouchable(Exception):
    """Raises at every look that goes through the class."""

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Lies(Exception):
    def __init__(self, answer: Any) -> None:
        super().__init__("lies")
        self.answer = answer

    def __reduce__(self) -> Any:
        return self.answer


class TestWhatClassesDo:
    @pytest.mark.parametrize("argument", [Leaves(), [Leaves()]])
    def test_an_argument_that_would_end_the_process(self, argument: Any) -> None:
        found = home(ValueError(argument))
        assert type(found) is ValueError
        assert "its repr could not be made: KeyboardInterrupt" in found.args[0]

    def test_a_class_whose_getattr_raises(self) -> None:
        error = Untouchable("x")
        vars(error)["__notes__"] = ["noted"]
        found = home(error)
        assert (type(found), found.args, found.__notes__) == (Untouchable, ("x",), ["noted"])

    def test_notes_that_are_none(self) -> None:
        error = ValueError("x")
        error.__notes__ = 5  # type: ignore[assignment]
        assert home(error).__notes__ == ["<its notes could not be read: TypeError>"]

    def test_a_frozen_one_keeps_cause_context_and_frames(self) -> None:
        def fail() -> None:
            try:
                raise KeyError
            except KeyError as error:
                raise Frozen(7) from error

        found = home(caught(fail))
        assert (type(found), found.code) == (Frozen, 7)
        assert type(found.__cause__) is KeyError
        assert [frame.name for frame in traceback.extract_tb(found.__traceback__)] == ["caught", "fail"]

    @pytest.mark.parametrize(
        "answer",
        [5, "no.such.name", (), (1, 2), (print,), (len, (1,)), (str, ("x",)), (int, ("not one",)), (sys.exit, (3,))],
        ids=str,
    )
    def test_a_reduce_that_lies(self, answer: Any) -> None:
        found = home(Lies(answer))
        assert (type(found).__name__, str(found)) == ("Lies", "lies")

    def test_a_reduce_that_answers_with_another_exception_is_believed(self) -> None:
        assert type(home(Lies((ValueError, ("other",))))) is ValueError

    def test_a_reduce_without_an_end(self) -> None:
        error = Lies(None)
        error.answer = (Lies, (error,))
        assert type(home(error)) is Lies

    def test_groups_with_members_that_lie_and_cannot_travel(self) -> None:
        found = home(ExceptionGroup("several", [Lies(5), HoldsLock("x"), RefusesPickle("y"), Frozen(1)]))
        assert isinstance(found, ExceptionGroup)
        assert [type(each) for each in found.exceptions] == [Lies, HoldsLock, RefusesPickle, Frozen]

    def test_one_that_is_too_large_comes_as_what_fits(self) -> None:
        try:
            raise ValueError("x" * 5_000_000)
        except ValueError as error:
            packed = pack_exception(error, limit_bytes=1_000_000)
        assert len(packed[0]) < 1_000_000
        found = unpack_exception(packed)
        assert (type(found).__name__, set(str(found))) == ("ValueError", {"x"})
        assert found.__traceback__ is not None

    def test_code_without_lines_and_endless_lines(self) -> None:
        scope: dict[str, Any] = {}
        exec(compile("def f():\n    raise ValueError\n", "<made>", "exec"), scope)
        code = scope["f"].__code__
        scope["f"].__code__ = code.replace(co_linetable=b"")
        assert traceback.extract_tb(home(caught(scope["f"])).__traceback__)[-1].name == "f"
        line = "raise ValueError" + " " * 100_000 + "  # end\n"
        linecache.cache["<long>"] = len(line), None, [line], "<long>"
        assert len(pack_exception(caught(lambda: exec(compile(line, "<long>", "exec"))))[0]) < 20_000
        del linecache.cache["<long>"]


class TestFrames:
    def test_the_remote_frames_stand_in_the_traceback(self) -> None:
        def inner() -> None:
            raise ValueError("deep")

        def outer() -> None:
            inner()

        found = home(caught(outer))
        names = [frame.name for frame in traceback.extract_tb(found.__traceback__)]
        assert names == ["caught", "outer", "inner"]
        assert 'raise ValueError("deep")' in text_of(found)
        original = traceback.extract_tb(caught(outer).__traceback__)
        assert [f.lineno for f in traceback.extract_tb(found.__traceback__)] == [f.lineno for f in original]

    def test_the_failing_expression_is_marked_as_python_marks_it_here(self) -> None:
        zero, wide = 0, "é" * 200

        def divide() -> Any:
            return len("ééé"), 1 + (len(wide) / zero) + 2

        def call() -> Any:
            return (1, 2, 3), divide(), (4, 5, 6)

        error = caught(call)
        marked = [line for line in text_of(error).splitlines() if set(line.strip()) <= {"~", "^"}]
        assert len(marked) >= 2
        assert text_of(home(error)) == text_of(error)

    def test_of_an_expression_of_several_lines_the_first_is_marked(self) -> None:
        def fail() -> Any:
            return 1 + max(
                [],
            )

        line, marks, _ = text_of(home(caught(fail))).splitlines()[-3:]
        assert line.strip() == "return 1 + max("
        assert marks.strip() == "^" * len("max(")

    def test_code_without_columns_has_no_marks(self) -> None:
        scope: dict[str, Any] = {}
        source = "def f(zero):\n    return (1 + 2) + 1 / zero\n"
        linecache.cache["<no columns>"] = (len(source), None, source.splitlines(True), "<no columns>")
        exec(compile(source, "<no columns>", "exec"), scope)
        code = scope["f"].__code__
        scope["f"].__code__ = code.replace(co_linetable=_line_table(code, 1, None))
        assert "^" not in text_of(home(caught(lambda: scope["f"](0)))).rpartition("return")[2]

    def test_one_that_was_never_raised_has_no_frames(self) -> None:
        assert home(ValueError()).__traceback__ is None

    def test_our_own_frames_are_left_out_at_the_beginning_only(self) -> None:
        def outer() -> None:
            raise ValueError

        error = caught(outer)
        assert home(error, is_ours=lambda name: name == __file__).__traceback__ is None
        scope: dict[str, Any] = {"back": outer}
        exec(compile("def users():\n    back()\n", "<users>", "exec"), scope)
        found = home(caught(scope["users"]), is_ours=lambda name: name == __file__)
        assert [frame.name for frame in traceback.extract_tb(found.__traceback__)] == ["users", "outer"]

    def test_a_file_that_the_client_lacks_shows_its_lines(self, worker_only: Callable[[], None]) -> None:
        packed = pack_exception(caught(worker_only))
        del linecache.cache["/nowhere/worker_only.py"]
        text = text_of(unpack_exception(packed))
        assert 'File "/nowhere/worker_only.py", line 5, in outer\n    inner()' in text
        assert "raise ValueError('from afar')" in text

    def test_raising_it_again_keeps_the_remote_frames_below(self) -> None:
        def far() -> None:
            raise ValueError

        found = caught(raiser(home(caught(far))))
        assert [f.name for f in traceback.extract_tb(found.__traceback__)][-1] == "far"

    def test_a_line_before_the_functions_first_is_possible(self) -> None:
        """As `co_firstlineno` of code that was made by a tool may say."""
        scope: dict[str, Any] = {}
        exec(compile("\n" * 300 + "def f():\n    raise ValueError\n", "<made>", "exec"), scope)
        code = scope["f"].__code__
        scope["f"].__code__ = code.replace(co_firstlineno=code.co_firstlineno + 400)
        error = caught(scope["f"])
        expected = traceback.extract_tb(error.__traceback__)[-1].lineno
        assert traceback.extract_tb(home(error).__traceback__)[-1].lineno == expected

    def test_a_recursion_error_is_cut_in_the_middle(self) -> None:
        def down() -> None:
            down()

        error = caught(down)
        assert isinstance(error, RecursionError)
        packed = pack_exception(error)
        assert len(packed[0]) < 100_000
        assert len(traceback.extract_tb(unpack_exception(packed).__traceback__)) == 100


class TestChains:
    def test_a_cause_keeps_its_own_frames(self) -> None:
        def first() -> None:
            raise KeyError("root")

        def second() -> None:
            try:
                first()
            except KeyError as error:
                raise ValueError("top") from error

        found = home(caught(second))
        assert isinstance(found.__cause__, KeyError)
        assert [f.name for f in traceback.extract_tb(found.__cause__.__traceback__)] == ["second", "first"]
        assert found.__suppress_context__
        assert "direct cause" in text_of(found)

    def test_a_context_is_no_cause(self) -> None:
        def both() -> None:
            try:
                raise KeyError("root")
            except KeyError:
                raise ValueError("top")  # noqa: B904

        found = home(caught(both))
        assert found.__cause__ is None
        assert isinstance(found.__context__, KeyError)
        assert not found.__suppress_context__
        assert "During handling" in text_of(found)

    def test_a_suppressed_context_stays_suppressed(self) -> None:
        def hide() -> None:
            try:
                raise KeyError("root")
            except KeyError:
                raise ValueError("top") from None

        assert "KeyError" not in text_of(home(caught(hide)))

    def test_a_circle_of_contexts_ends(self) -> None:
        one, two = ValueError("one"), ValueError("two")
        one.__context__, two.__context__ = two, one
        found: BaseException | None = home(one)
        length = 0
        while found is not None:
            found, length = found.__context__, length + 1
        assert 2 <= length <= 21

    def test_shared_causes_do_not_multiply(self) -> None:
        """Of each error the cause and the context lead to the same one before: 20 levels would make a million."""
        below: BaseException = ValueError("root")
        for number in range(14):
            cause, context, above = ValueError("cause"), ValueError("context"), ValueError(str(number))
            cause.__context__ = context.__context__ = below
            above.__cause__, above.__context__ = cause, context
            below = above
        assert len(pack_exception(below)[0]) < 100_000

    def test_a_group_keeps_its_members_and_their_frames(self) -> None:
        def member() -> None:
            raise KeyError("inside")

        def group() -> None:
            raise ExceptionGroup("several", [caught(member), ValueError("other")])  # type: ignore[list-item]

        found = home(caught(group))
        assert type(found) is ExceptionGroup
        assert found.message == "several"
        assert [type(each) for each in found.exceptions] == [KeyError, ValueError]
        assert "member" in text_of(found)

    def test_a_group_with_a_member_that_cannot_be_pickled(self) -> None:
        found = home(ExceptionGroup("several", [HoldsLock("x")]))
        assert type(found) is ExceptionGroup
        assert type(found.exceptions[0]) is HoldsLock

    def test_a_group_of_a_class_that_the_client_lacks_is_a_plain_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("only_there")
        exec("class Several(ExceptionGroup):\n    pass\n", module.__dict__)
        monkeypatch.setitem(sys.modules, "only_there", module)
        packed = pack_exception(module.Several("text", [ValueError("x")]))
        monkeypatch.delitem(sys.modules, "only_there")
        found = unpack_exception(packed)
        assert type(found) is ExceptionGroup
        assert "text" in found.message

    def test_groups_nested_without_end_are_cut(self) -> None:
        error: Exception = ValueError("bottom")
        for _ in range(60):
            error = ExceptionGroup("level", [error])
        assert isinstance(home(error), ExceptionGroup)


def test_a_class_that_came_from_the_client_comes_home_in_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("__main__")
    exec("class Mine(Exception):\n    pass\ndef fail():\n    raise Mine('x')\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    payload, _, _ = serialize.pack_function(module.fail)
    namespace = serialize.ClassNamespace()
    with namespace.entered():
        error = caught(serialize.unpack(payload))
        packed = pack_exception(error, (namespace.reduce,))
    assert type(error) is not module.Mine
    assert type(unpack_exception(packed)) is module.Mine


class TestImportsThatFail:
    """What they mean is known where the module is, or is not."""

    @pytest.fixture(autouse=True)
    def _explains(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def explain(error: BaseException) -> str | None:
            return f"a note on {error}" if "here" in str(error) else None

        monkeypatch.setattr(collect, "_current", types.SimpleNamespace(explain=explain))

    @pytest.mark.parametrize("kind", [ModuleNotFoundError, ImportError, OSError])
    def test_a_note_says_it(self, kind: type[Exception]) -> None:
        assert home(caught(raiser(kind("it is here")))).__notes__ == ["a note on it is here"]
        assert not hasattr(home(caught(raiser(kind("lost")))), "__notes__")

    def test_the_same_note_is_not_made_twice(self) -> None:
        error = ImportError("it is here")
        error.add_note("a note on it is here")
        assert home(error).__notes__ == ["a note on it is here"]

    def test_of_a_cause_too_and_of_nothing_else(self) -> None:
        error = ValueError("here")
        error.__cause__ = ImportError("it is here")
        arrived = home(error)
        assert not hasattr(arrived, "__notes__")
        assert arrived.__cause__ is not None
        assert arrived.__cause__.__notes__ == ["a note on it is here"]
