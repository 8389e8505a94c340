"""Forms with files: fields are checked as they become known, files stream into the store meanwhile.

Clients may send fields before or after the files. No file is published before the whole form is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from api.errors import BadRequest, Unprocessable
from api.multipart import Field, FileEnd, FileStart, FormEvent, form_events
from api.uploads import Upload

Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class FormPlan:
    """What a route expects of a form.

    `files` must all come; other file parts are skipped. `open_file` makes the upload of a part (its name,
    its file name, the fields so far); `check` judges the fields so far. Both raise Refused.
    `refusal` stands against every such form: fields and file names are still judged, nothing is stored, and
    it is raised where the last file begins.
    """

    files: tuple[str, ...]
    open_file: Callable[[str, str, Fields], Upload]
    check: Callable[[Fields], None]
    refusal: Exception | None = None


@dataclass(slots=True)
class ReceivedForm:
    """A form that was read to its end; its uploads are complete and wait for `commit`."""

    fields: Fields = field(default_factory=dict)
    filenames: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)


@asynccontextmanager
async def received_form(
    request: Request, plan: FormPlan, fields: Fields | None = None
) -> AsyncIterator[ReceivedForm]:
    """Read the form; what is not committed inside the block leaves nothing behind.

    Raises Unprocessable for a missing file, BadRequest for a malformed body, and what the plan raises.
    """
    async with AsyncExitStack() as stack, aclosing(form_events(request)) as events:
        reader = _Reader(plan, ReceivedForm(dict(fields or {})), stack)
        async for event in events:
            await reader.take(event)
        for name in plan.files:
            if name not in reader.form.filenames:
                raise missing_field(name)
        yield reader.form


def missing_field(name: str) -> Unprocessable:
    return Unprocessable([{"type": "missing", "loc": ["body", name], "msg": "Field required"}])


class _Reader:
    """Puts each event of the form where it belongs."""

    def __init__(self, plan: FormPlan, form: ReceivedForm, stack: AsyncExitStack) -> None:
        self._plan = plan
        self._stack = stack
        self._current: Upload | None = None
        self.form = form

    async def take(self, event: FormEvent) -> None:
        if isinstance(event, bytes):
            if self._current is not None:
                await self._current.write(event)
        elif isinstance(event, Field):
            self.form.fields[event.name] = event.value
            self._plan.check(self.form.fields)
        elif isinstance(event, FileStart):
            await self._start(event)
        elif isinstance(event, FileEnd):
            self._current = None

    async def _start(self, part: FileStart) -> None:
        if part.name not in self._plan.files:
            self._current = None
            return
        if part.name in self.form.filenames:
            raise BadRequest(f"{part.name} is given twice")
        upload = self._plan.open_file(part.name, part.filename, self.form.fields)
        self.form.filenames[part.name] = part.filename
        if self._plan.refusal is not None:
            self._current = None
            self._refuse_last(self._plan.refusal)
            return
        self._current = await self._stack.enter_async_context(upload)
        self.form.uploads[part.name] = upload

    def _refuse_last(self, refusal: Exception) -> None:
        if self.form.filenames.keys() >= set(self._plan.files):
            raise refusal
