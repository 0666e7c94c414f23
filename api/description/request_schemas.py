"""The bodies of jobs that callers send, as JSON Schema with examples. The parser checks also what
JSON Schema cannot say.
"""

from api.description.shapes import Schema, or_null, reference, text
from api.jobs.entries import MAX_EXTERNAL_ID, MAX_PHONE_NUMBER
from api.jobs.options import OPTIONS
from api.jobs.submission import MAX_ENTRIES
from shared.identifiers.canonical import IGNORED, PUNCTUATION
from shared.windows import DAY_NAMES


def _characters(text: str) -> str:
    """The characters of `text`, escaped for a class of a regular expression in JSON Schema."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


CAMPAIGN_PATTERN = f"[^{_characters(IGNORED)}]"
_NO_NUL = r"^[^\u0000]*$"

ENTRY: Schema = {
    "type": "object",
    "description": (
        "Names one lead, by `externalId`, `phoneNumber` or both. Null counts as missing. Other"
        " fields are ignored, except those that may mean one of the two (`external_id`, `mobile`,"
        " …), which are refused."
    ),
    "properties": {
        "externalId": or_null(text("Your CRM's id", maxLength=MAX_EXTERNAL_ID, pattern=_NO_NUL)),
        "phoneNumber": or_null(
            text(
                "E.164; spaces, dots, dashes, parentheses allowed",
                maxLength=MAX_PHONE_NUMBER,
                pattern=_NO_NUL,
            )
        ),
    },
    "anyOf": [
        {
            "required": ["externalId"],
            "properties": {"externalId": {"type": "string", "pattern": CAMPAIGN_PATTERN}},
        },
        {
            "required": ["phoneNumber"],
            "properties": {
                "phoneNumber": {
                    "type": "string",
                    "pattern": f"[^{_characters(IGNORED + PUNCTUATION)}]",
                }
            },
        },
    ],
}

_CLOCK = "^([01][0-9]|2[0-3]):[0-5][0-9]$"

_WINDOW = {
    "type": "object",
    "additionalProperties": False,
    "required": ["start", "end"],
    "description": (
        "Open on each of `days` from `start` to `end`; an `end` before `start` is on the next day"
    ),
    "properties": {
        "start": text("As the clock reads in `timeZone`", pattern=_CLOCK, examples=["22:00"]),
        "end": text(
            "Another time than `start`",
            pattern=_CLOCK.replace("$", "$|^24:00$"),
            examples=["06:00"],
        ),
        "timeZone": or_null(text("IANA name", default="UTC", examples=["America/New_York"])),
        "days": {
            "type": ["array", "null"],
            "description": "The days on which it opens; all, if left out or empty",
            "items": {"type": "string", "enum": list(DAY_NAMES)},
        },
    },
}

_SCHEDULE = {
    "type": "object",
    "description": (
        "When to run: exactly one of the three. When a window shuts, the job waits for its next"
        " opening"
    ),
    "additionalProperties": False,
    "oneOf": [
        {"required": [name], "properties": {name: {"type": kind}}}
        for name, kind in {"runAt": "string", "offPeak": "boolean", "window": "object"}.items()
    ],
    "properties": {
        "runAt": or_null(
            text(
                "The time to begin at, with an offset; one in the past means now",
                format="date-time",
                examples=["2026-01-31T22:00:00+01:00"],
            )
        ),
        "offPeak": {
            "enum": [True, None],
            "description": "In the off-peak window of the campaign, or of the server",
        },
        "window": {"anyOf": [reference("Window"), {"type": "null"}]},
    },
    "examples": [
        {"runAt": "2026-01-31T22:00:00+01:00"},
        {"offPeak": True},
        {
            "window": {
                "start": "22:00",
                "end": "06:00",
                "timeZone": "America/New_York",
                "days": ["fri", "sat"],
            }
        },
    ],
}

# By name; every submission can have them.
_OPTIONS = {option.name: option.schema for option in OPTIONS}

PHONE_REGION: Schema = _OPTIONS["phoneRegion"]

_BULK_DELETE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["campaignId", "leads"],
    "properties": {
        "campaignId": text("The campaign that all leads belong to", pattern=CAMPAIGN_PATTERN),
        "leads": {
            "type": "array",
            "description": "The leads to delete",
            "minItems": 1,
            "maxItems": MAX_ENTRIES,
            "items": reference("Entry"),
        },
        **_OPTIONS,
    },
    "examples": [
        {
            "campaignId": "cmp_1",
            "leads": [{"externalId": "CRM_001"}, {"phoneNumber": "+15555551234"}],
            "clientReference": "nightly",
        }
    ],
}

_JOB_CHANGE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["maxLeadsPerSecond"],
    "properties": {"maxLeadsPerSecond": _OPTIONS["maxLeadsPerSecond"]},
    "examples": [{"maxLeadsPerSecond": 500}],
}

_EXECUTION = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"schedule": _OPTIONS["schedule"]},
    "examples": [{"schedule": {"offPeak": True}}],
}


def _parameter(name: str, schema: Schema, *, required: bool = False) -> Schema:
    """An option as a parameter of the query, which cannot be null."""
    kept = {keyword: value for keyword, value in schema.items() if keyword != "description"}
    for keyword in ("type", "enum"):
        if isinstance(kept.get(keyword), list):
            kept[keyword] = [value for value in kept[keyword] if value not in {None, "null"}]
    if isinstance(kept.get("type"), list):
        (kept["type"],) = kept["type"]
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": schema["description"],
        "schema": kept,
    }


_ON_INVALID = text(
    "What becomes of a row that is not an entry: with `fail` the file is refused, with `skip` the"
    " row gets the outcome `invalid`",
    enum=["fail", "skip"],
    default="fail",
)

_COLUMNS = text(
    "What the columns or keys of the file that hold the identifiers are called: one line of CSV. A"
    " name that looks like an identifier is refused unless this or `ignore` says what it is",
    minLength=1,
    examples=["externalId:crm_id,phoneNumber:mobile", '"externalId:CRM, ID"'],
)
_IGNORE = text(
    "Columns or keys that are not identifiers, though they look like it: one line of CSV",
    minLength=1,
    examples=["mobile,fax"],
)

# The parameters of the query with a file.
FILE_PARAMETERS = [
    _parameter("campaignId", _BULK_DELETE["properties"]["campaignId"], required=True),
    _parameter("onInvalid", _ON_INVALID),
    _parameter("columns", _COLUMNS),
    _parameter("ignore", _IGNORE),
    *(_parameter(name, schema) for name, schema in _OPTIONS.items() if name != "schedule"),
    {
        "name": "schedule",
        "in": "query",
        "description": "As the JSON form has it",
        "content": {"application/json": {"schema": reference("Schedule")}},
    },
]

# The bodies that a file can be, by media type.
FILES: Schema = {
    "text/csv": {
        "schema": {"type": "string"},
        "example": "externalId,phoneNumber\nCRM_001,\n,+15555551234\n",
    },
    "application/x-ndjson": {
        "schema": {"type": "string"},
        "example": '{"externalId": "CRM_001"}\n{"phoneNumber": "+15555551234"}\n',
    },
}

REQUEST_SCHEMAS: dict[str, Schema] = {
    "JobChange": _JOB_CHANGE,
    "Execution": _EXECUTION,
    "BulkDelete": _BULK_DELETE,
    "Entry": ENTRY,
    "Schedule": _SCHEDULE,
    "Window": _WINDOW,
}
