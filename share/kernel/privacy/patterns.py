"""The patterns of personal data, in the order in which they are looked for: secrets first, telephone numbers last."""

from __future__ import annotations

from share.kernel.privacy.accounts import ACCOUNTS
from share.kernel.privacy.addresses import MACHINE_ADDRESSES, MAIL_ADDRESSES
from share.kernel.privacy.credentials import CALLED_SECRETS, CREDENTIALS
from share.kernel.privacy.identities import IDENTITIES
from share.kernel.privacy.pattern import Pattern
from share.kernel.privacy.telephones import TELEPHONES

PATTERNS: tuple[Pattern, ...] = (
    *CREDENTIALS,
    *MAIL_ADDRESSES,
    *CALLED_SECRETS,
    *ACCOUNTS,
    *MACHINE_ADDRESSES,
    *IDENTITIES,
    *TELEPHONES,
)

__all__ = ["PATTERNS"]
