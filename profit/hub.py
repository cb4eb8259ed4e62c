"""What it means when the hub does not give what it is asked for: one sentence, with what to do about it.

No command: used by profit.fetch and profit.pin.
"""

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# HTTPError is the client's own: no connection, or one that broke off.
HUB_ERRORS = (HFValidationError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)


def reason(error: Exception, unreachable: str) -> str:
    """The rest of a sentence that begins with the name of what was asked for; `error` is one of `HUB_ERRORS`.

    unreachable: the rest of it where there is no connection.
    """
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__
    if isinstance(error, GatedRepoError):
        return "is gated: accept its terms on the hub, then set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return "has no such revision: check the commit, tag or branch"
    if isinstance(error, RepositoryNotFoundError):
        return "is not on the hub, or is private or gated: check the id, accept its terms, set HF_TOKEN"
    if isinstance(error, HfHubHTTPError):
        return f"cannot be had ({str(error).partition(chr(10))[0]}): try again later, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return "is neither a folder nor an id of the hub (owner/name)"
    return unreachable
