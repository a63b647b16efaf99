"""Files that desktops and network storage leave in any folder they show: never ours, never a reason to refuse one."""

NAMES = frozenset({".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory", "@eadir"})
PREFIXES = ("._", ".nfs", ".fuse_hidden", ".smbdelete")
PATTERNS = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".nfs*", ".fuse_hidden*", "@eaDir")
"""The same for tools that take patterns."""


def is_litter(name: str) -> bool:
    """Say whether a file or folder of this name is a system's own remark, not content."""
    return name.lower() in NAMES or name.startswith(PREFIXES)
