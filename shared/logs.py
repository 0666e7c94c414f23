"""Logging: one line an event, on stderr, as JSON for collectors or text for people.

Events are short fixed phrases with fields (`job=…`, `chunk=…`), so that an operator can search for them. Identifiers of leads
and API keys are never logged.
"""

import logging
import sys

import structlog

from shared.settings import Settings


def configure(settings: Settings) -> None:
    """Sets up structlog, and the standard library's loggers (Celery, uvicorn, kombu) with it."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    errors = [structlog.processors.format_exc_info] if settings.log_format == "json" else []
    structlog.configure(
        processors=[*steps, *errors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level)),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, renderer],
        )
    )
    logging.root.handlers = [handler]
    # Libraries at INFO tell of every message received and request served; what matters of that, we log ourselves.
    logging.root.setLevel(max(logging.WARNING, getattr(logging, settings.log_level)))
