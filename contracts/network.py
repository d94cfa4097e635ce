"""Events about the network definition. Producer: network."""

from contracts.fact import Fact, Sha256, plain


class NetworkApplied(Fact):
    """A version of the network definition is in force. Consumers fetch the snapshot."""

    version: int = plain("Version now in force; a rollback is a new, higher version.", ge=1)
    previous_version: int | None = plain("Version in force before.", default=None)
    document_hash: Sha256 = plain("SHA-256 of the document as it was applied.")
    applied_by: str = plain("Name of the token or `local` for the local socket.")
    rollback_of: int | None = plain("The version whose document was applied again.", default=None)
    change_count: int = plain("Number of differences to the version before.", ge=0)
    not_in_force: tuple[str, ...] = plain("Parts that are kept but that this release does not carry out.", default=())
