"""The one path from what a caller asked to a recorded task, for every dialect and for Python handles.

Refuses here what can be refused, so that no task fails later for a typo. Writes nothing itself but the
record: a refused request leaves nothing behind.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter
from pydantic import BaseModel, ValidationError

from api.context import ApiContext
from api.errors import BadRequest, error_list
from api.input_files import InputFiles
from api.readiness import Readiness
from cluster import keys
from cluster.errors import TaskConflict, TaskNotFound, UnsafeUrl, UrlUnreachable
from cluster.stored_folders import FolderMark, mark_facts
from cluster.task import Json, NewTask, Submission, Task, fingerprint_of
from cluster.urls import UrlGuard
from models.engine import InputFile, InvalidInput, ModelNotReady, ModelSpec, file_fields
from models.media import MediaInfo

MAX_KEY_CHARS = 255
MAX_CALLBACK_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A task as a dialect understood it. `files` are inputs the server itself has stored, by field."""

    name: str
    inputs: Json
    tenant: str
    dialect: str
    task_id: str | None = None
    idempotency_key: str | None = None
    dedupe_key: str | None = None
    priority: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    shows_probe: bool = False
    is_fresh_id: bool = False
    callback_url: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """Inputs that passed: where each file or folder lies, and what each contains.

    A file behind a URL is in none of them: its attempt downloads it, and looks at it then.
    """

    files: dict[str, str] = field(default_factory=dict)
    probes: dict[str, MediaInfo] = field(default_factory=dict)
    folders: dict[str, FolderMark] = field(default_factory=dict)


class Submitter:
    """Checks drafts against the catalogue and hands them to the registry."""

    def __init__(self, context: ApiContext, readiness: Readiness) -> None:
        self._registry = context.registry
        self._catalog = context.catalog
        self._readiness = readiness
        settings = context.settings
        self._urls = UrlGuard(settings.callback_networks)
        self._input_files = InputFiles(context.registry, context.storage, self._urls, settings)
        self._file_fields = {name: file_fields(model.inputs) for name, model in self._catalog.items()}

    @property
    def decoders(self) -> CapacityLimiter:
        """What bounds the threads that decode callers' files."""
        return self._input_files.decoders

    def model(self, name: str) -> ModelSpec:
        """The model of a task name; raises BadRequest naming the supported ones."""
        model = self._catalog.get(name)
        if model is None:
            supported = ", ".join(sorted(self._listed()))
            text = f"不支持的任务: {name[:200]}。支持的任务: {supported}"
            raise BadRequest(text, details={"supported_tasks": sorted(self._listed())})
        return model

    async def callback_url(self, url: str | None) -> str | None:
        """A caller's callback URL, once it is judged; raises BadRequest."""
        if url is None:
            return None
        if not url.isprintable() or " " in url or len(url) > MAX_CALLBACK_CHARS:
            raise _malformed_callback(f"a URL has at most {MAX_CALLBACK_CHARS} characters and no spaces")
        try:
            self._urls.check_form(url)
        except UnsafeUrl as error:
            raise _malformed_callback(str(error)) from error
        try:
            await self._urls.judge(url)
        except (UnsafeUrl, UrlUnreachable) as error:
            raise BadRequest(f"callback: {error}", details={"field": "callback"}) from error
        return url

    async def submit(self, draft: Draft) -> Submission:
        """Record the draft as a task, or find the one it already made.

        Raises Refused, InvalidInput, ModelNotReady, TaskConflict, DuplicateTask, QueueFull and
        RegistryUnavailable.
        """
        model = self.model(draft.name)
        inputs = validated(model.inputs, draft.inputs)
        takes_files = bool(self._file_fields[draft.name])
        if takes_files and (existing := await self._existing(draft, inputs)) is not None:
            return existing  # its files may be gone, and need not be there
        checked = await self._check_files(model, inputs, draft)
        try:
            await self._readiness.engine(model)
        except ModelNotReady:
            # Asked only here where nothing else can fail: a submit to a ready model costs one call.
            if takes_files or (existing := await self._existing(draft, inputs)) is None:
                raise
            return existing
        return await self._registry.submit(_new_task(model, draft, checked, inputs))

    def _listed(self) -> list[str]:
        return [name for name, model in self._catalog.items() if model.is_listed and model.engines]

    async def _existing(self, draft: Draft, inputs: BaseModel) -> Submission | None:
        """The task that a caller-chosen id or key already names. Raises TaskConflict."""
        task = await self._named(draft) or await self._keyed(draft)
        if task is None:
            return None
        if task.tenant != draft.tenant or task.fingerprint != fingerprint_of(draft.name, compared(inputs)):
            raise TaskConflict(task.id)
        if draft.callback_url is not None:
            task = await self._registry.redirect_callback(task.id, draft.callback_url, uuid.uuid4().hex)
        return Submission(task, created=False)

    async def _named(self, draft: Draft) -> Task | None:
        if draft.task_id is None or draft.is_fresh_id:
            return None
        try:
            return await self._registry.get(draft.task_id)
        except TaskNotFound:
            return None

    async def _keyed(self, draft: Draft) -> Task | None:
        if draft.idempotency_key is None:
            return None
        return await self._registry.keyed(draft.tenant, draft.idempotency_key)

    async def _check_files(self, model: ModelSpec, inputs: BaseModel, draft: Draft) -> Checked:
        checked = Checked()
        for name, mark in self._file_fields[draft.name].items():
            value = getattr(inputs, name)
            if value is not None:
                await self._check_file(name, mark, value, draft, checked)
        _judge(model, inputs, checked)
        return checked

    async def _check_file(
        self, name: str, mark: InputFile, value: str, draft: Draft, checked: Checked
    ) -> None:
        key = draft.files.get(name) or await self._input_files.key_of(name, value, mark.kind, draft.tenant)
        if key is None:
            return
        found = await self._input_files.probe(name, key, mark.kind, value)
        checked.files[name] = key
        if isinstance(found, FolderMark):
            checked.folders[name] = found
        elif found is not None:
            checked.probes[name] = found


def _malformed_callback(reason: str) -> BadRequest:
    return BadRequest("无效的callback URL格式", details={"field": "callback", "reason": reason})


def validated(model: type[BaseModel], inputs: Any) -> BaseModel:
    """`inputs` as `model`; raises BadRequest with the first problem in words and all in `details`."""
    try:
        return model.model_validate(inputs)
    except ValidationError as error:
        problems = error_list(error.errors(include_context=False))
        raise BadRequest(_problem_text(problems), details=problems) from error


def compared(inputs: BaseModel) -> Json:
    """What makes two requests the same: an input left out equals its default written down.

    Without what is None, so that an optional input of a later version changes no earlier request.
    """
    return inputs.model_dump(mode="json", exclude_none=True)


def idempotency_key(text: str | None, tenant: str) -> str | None:
    """The key of an Idempotency-Key header, apart for each tenant; raises BadRequest."""
    if text is None:
        return None
    if not 0 < len(text) <= MAX_KEY_CHARS or not text.isprintable():
        raise BadRequest(f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable characters")
    return f"{tenant}:{text}"


def _problem_text(problems: list[dict[str, Any]]) -> str:
    missing = [problem for problem in problems if problem["type"] == "missing"]
    if missing:
        return f"缺少必需参数: {_where(missing[0])}"
    return "; ".join(f"参数无效: {_where(problem)}: {problem['msg']}" for problem in problems[:5])


def _where(problem: dict[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"])[:200] or "input_data"


def _judge(model: ModelSpec, inputs: BaseModel, checked: Checked) -> None:
    if model.check is None:
        return
    try:
        model.check(inputs, checked.probes)
    except InvalidInput as error:
        text = str(error) if error.field is None or error.field in str(error) else f"{error.field}: {error}"
        raise BadRequest(text, details={"field": error.field}) from error


def _new_task(model: ModelSpec, draft: Draft, checked: Checked, inputs: BaseModel) -> NewTask:
    has_fresh_id = draft.task_id is None or draft.is_fresh_id
    return NewTask(
        id=draft.task_id or str(uuid.uuid4()),
        name=model.name,
        service=model.service,
        inputs=draft.inputs,
        compared=compared(inputs),
        files=checked.files,
        facts=_facts(draft, checked),
        tenant=draft.tenant,
        dialect=draft.dialect,
        priority=draft.priority,
        max_attempts=model.max_attempts,
        run_timeout_s=model.run_timeout_s,
        idempotency_key=draft.idempotency_key,
        dedupe_key=draft.dedupe_key,
        is_fresh_id=has_fresh_id,
        callback_url=draft.callback_url,
        callback_request_id=uuid.uuid4().hex if draft.callback_url else "",
    )


def _facts(draft: Draft, checked: Checked) -> Json:
    facts = draft.facts | mark_facts(checked.folders)
    if draft.shows_probe:
        facts["probes"] = {name: probe_facts(info) for name, info in checked.probes.items()}
    return facts


def probe_facts(info: MediaInfo) -> Json:
    """A probe as JSON, for dialects that show it again."""
    video = info.video
    facts: Json = {
        "duration_s": info.duration_s,
        "bit_rate": info.bit_rate,
        "has_audio": info.audio is not None,
    }
    if video is not None:
        facts |= {
            "width_px": video.width_px,
            "height_px": video.height_px,
            "num_frames": video.num_frames,
            "fps": float(video.fps),
            "avg_frame_rate": f"{video.fps.numerator}/{video.fps.denominator}",
        }
    return facts


def check_task_id(task_id: str, reserved: frozenset[str] = frozenset()) -> str:
    """A task id chosen by a client; raises BadRequest."""
    if not keys.is_task_id(task_id) or task_id in reserved:
        text = "无效的task_id: 1-128 characters of A-Z a-z 0-9 . _ -, not '.' or '..', and no reserved word"
        raise BadRequest(text, details={"field": "task_id", "reserved": sorted(reserved)})
    return task_id
