"""EL3_TOKEN_SIGN: realm tokens signed by the HES while EL3 continues to serve.

Each pushed request is signed in its own thread; the response waits until it is pulled.  Responses
come in any order; REC and ticket identify the request.  A response without a signature means that
the HES has failed.
Spec: TF-A, "RMM-EL3 communication interface", RMM_EL3_TOKEN_SIGN.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Final

from pyvmm.arch.rmmd import (
    CURVE_P384,
    HASH_SHA384,
    RmmdError,
    TokenSignRequest,
    TokenSignResponse,
)
from pyvmm.arch.system import NoThreadError, start_thread

MAX_REQUESTS: Final = 64
_SHA384_SIZE: Final = 48


class TokenSigner:
    """The requests in progress."""

    def __init__(
        self, sign_sha384: Callable[[bytes], bytes], *, signs_at_once: bool = False
    ) -> None:
        """Sign with a function that raises OSError on failure.

        ``signs_at_once``: while the request is pushed, without a thread, so that a run can be
        repeated.
        """
        self._sign_sha384 = sign_sha384
        self._signs_at_once = signs_at_once
        self._lock = Lock()
        self._num_requests = 0  # pushed and not pulled yet
        self._responses: deque[TokenSignResponse] = deque()

    def push(self, request: TokenSignRequest) -> RmmdError:
        """Accept a request; AGAIN if there are too many, or the host cannot start a thread."""
        if request.sig_alg != CURVE_P384 or request.hash_alg != HASH_SHA384:
            return RmmdError.INVAL
        with self._lock:
            if self._num_requests == MAX_REQUESTS:
                return RmmdError.AGAIN
            self._num_requests += 1
        if self._signs_at_once:
            self._sign(request)
            return RmmdError.OK
        try:
            start_thread(Thread(target=self._sign, args=(request,), name="token-sign", daemon=True))
        except NoThreadError:
            with self._lock:
                self._num_requests -= 1
            return RmmdError.AGAIN
        return RmmdError.OK

    def pull(self) -> TokenSignResponse | None:
        """Return a response that has not been pulled yet, or None."""
        with self._lock:
            if not self._responses:
                return None
            self._num_requests -= 1
            return self._responses.popleft()

    def _sign(self, request: TokenSignRequest) -> None:
        try:
            signature = self._sign_sha384(request.hash[:_SHA384_SIZE])
        except OSError:
            signature = b""
        response = TokenSignResponse.of(
            rec=request.rec,
            ticket=request.ticket,
            sig_size=len(signature),
            signature=signature,
        )
        with self._lock:
            self._responses.append(response)
