"""Callers that are slow: silent, or taking nothing of their answers.

Each wait for a caller has an end. Where there are too many connections, or too much of their
answers is not taken, those that have been waited for longest give up their places.
"""

import time
from typing import TYPE_CHECKING

import h11

from api.http.answers import ApiError

if TYPE_CHECKING:
    from api.http.protocol import Connection

# Seconds from the first byte of a head to its last; of the first head, from the connection on.
HEAD_TIMEOUT = 30.0
BODY_PART_TIMEOUT = 30.0  # seconds without a byte of a body that we are ready to read
TAKING_TIMEOUT = 60.0  # seconds in which a caller takes not one byte of an answer
LINGER_TIME = 5.0  # seconds after the end of our side, see api.http.protocol.Transport

# Bytes of answers that may wait to be taken, of all connections together: as many as 500 callers
# get at once who have each waited for a job of 1000 leads.
MAX_UNTAKEN = 64 * 1024 * 1024
# So many connections end where one more does not fit: finding the oldest takes a look at all.
PLACES_FREED_AT_ONCE = 100


def look_at(connection: "Connection") -> None:
    """Ends a connection whose caller has been silent for too long, or takes nothing of the answer.
    It is to be called every second.
    """
    now, transport = time.monotonic(), connection.transport
    left = transport.get_write_buffer_size()
    if not left or left != connection.left_to_take:
        connection.left_to_take, connection.taken_at = left, now
    elif now - connection.taken_at > TAKING_TIMEOUT:
        transport.abort()
    if not transport.is_closing():
        _look_at_request(connection, now)
    elif transport.ended_at and now - transport.ended_at > LINGER_TIME:
        transport.close_for_good()


def _look_at_request(connection: "Connection", now: float) -> None:
    state = connection.conn.their_state
    silence = now - connection.silent_since
    if state is h11.SEND_BODY:
        if connection.flow.read_paused:
            connection.silent_since = now
        elif silence > BODY_PART_TIMEOUT:
            connection.end_body(ApiError(408, "Request body took too long to arrive"))
    elif state is h11.IDLE and not connection.timeout_keep_alive_task and silence > HEAD_TIMEOUT:
        if connection.conn.trailing_data[0]:
            connection.refuse("408 Request Timeout", "Request header took too long to arrive")
        else:
            connection.transport.close()


def make_room(connections: "set[Connection]") -> None:
    """Ends connections whose callers have been silent for longest: some that are idle; where none
    is, one that waits for its caller.
    """
    by_silence = sorted(connections, key=lambda each: each.silent_since)
    ended = [each for each in by_silence if each.is_idle][:PLACES_FREED_AT_ONCE]
    if not ended:
        ended = [each for each in by_silence if each.waits_for_caller][:1]
    for each in ended:
        each.transport.abort()
        connections.discard(each)


def end_untaken(connections: "set[Connection]") -> None:
    """Ends connections of which nothing has been taken for longest, until what is left of all
    answers is no more than MAX_UNTAKEN.
    """
    paused = [each for each in connections if each.flow.write_paused]
    paused.sort(key=lambda each: each.taken_at)
    untaken = sum(each.transport.get_write_buffer_size() for each in paused)
    for each in paused:
        if untaken <= MAX_UNTAKEN:
            break
        untaken -= each.transport.get_write_buffer_size()
        each.transport.abort()
