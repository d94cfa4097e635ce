"""The record of everything that happened and of every access: appended to, never changed; the timeline of a study."""
