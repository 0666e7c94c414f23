"""Logging: one line an event, on stderr, as JSON for collectors or text for people.

Events are short fixed phrases with fields (`job=…`, `chunk=…`), so that an operator can search for
them. Identifiers of leads and API keys are never logged. Text that others wrote, such as a path or
an error of the database, cannot steer the terminal of whoever reads the log.
"""

import io
import logging
import sys
from typing import Any, TextIO

import structlog

from shared.printable import printable, printable_lines
from shared.process.streams import Unfailing
from shared.settings import Settings


def configure(settings: Settings) -> None:
    """Sets up structlog, and the standard library's loggers (Celery, uvicorn, kombu) with it."""
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]  # in ASCII
        if settings.log_format == "json"
        else [
            _harmless,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=_harmless_traceback
            ),
        ]
    )
    structlog.configure(
        processors=[*steps, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level)),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.root.handlers = [handler]
    # Libraries at INFO log every message received and every request served. We log ourselves what
    # matters of that.
    logging.root.setLevel(max(logging.WARNING, getattr(logging, settings.log_level)))
    if isinstance(sys.stderr, Unfailing):
        sys.stderr.notice = _lines_lost


def _harmless(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {name: _harmless_value(name, value) for name, value in event.items()}


def _harmless_value(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return printable_lines(value) if name == "stack" else printable(value)


def _harmless_traceback(file: TextIO, exception: structlog.typing.ExcInfo) -> None:
    whole = io.StringIO()
    structlog.dev.plain_traceback(whole, exception)
    file.write(printable_lines(whole.getvalue()))


def _lines_lost(number: int) -> str | None:
    """The log line that says how many were lost. None where warnings are not logged."""
    log = structlog.wrap_logger(structlog.ReturnLogger())
    line: str | None = log.warning(
        "log lines lost", lines=number, hint="give the disk room, or read the pipe's other end"
    )
    return line
