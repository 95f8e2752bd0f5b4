"""The team of a report, from a TOML file. Without the file, the report names no team.

title = "Which module helps a ResNet?"     # optional: title of the report and the slides
course = "Deep Learning, winter term"      # optional
date = 2026-11-27                          # optional: a TOML date, or text

[[members]]
name = "A. Student"
did = "the attention modules and their tests"
"""

import tomllib
from dataclasses import dataclass
from datetime import date

from rows import in_list, refuse

TITLE = "Which module is worth adding to a ResNet?"  # unless the team has its own
FIELDS, MEMBER_FIELDS = ("title", "course", "date", "members"), ("name", "did")


@dataclass(frozen=True)
class Team:
    members: tuple  # of (name, did)
    title: str = ""
    course: str = ""
    date: str = ""

    @property
    def byline(self):
        """'A. Student and B. Student. Deep Learning. 2026-11-27'"""
        return ". ".join(part for part in (in_list([name for name, _ in self.members]), self.course, self.date) if part)


def title_of(team):
    return team.title if team and team.title else TITLE


def read_team(path):
    """A TOML file -> Team; refuses missing, unknown and empty fields in one line."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows may begin it with a mark
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        refuse(f"{path} cannot be used: {error}")
    check_fields(path, content, FIELDS, required=("members",))
    members = content["members"]
    if not (isinstance(members, list) and members and all(isinstance(member, dict) for member in members)):
        refuse(f"{path} cannot be used: members must be one or more [[members]] tables, each with name and did")
    for member in members:
        check_fields(path, member, MEMBER_FIELDS, required=MEMBER_FIELDS)
    named = {name: content[name] for name in ("title", "course", "date") if name in content}
    for table in (named, *members):
        for name, value in table.items():
            if isinstance(value, date) and name == "date":
                table[name] = value.isoformat()
            elif not (isinstance(value, str) and value.strip()):
                refuse(f"{path} cannot be used: {name} must be text, got {value!r}")
    return Team(tuple((member["name"], member["did"]) for member in members), **named)


def check_fields(path, content, allowed, required):
    """Refuses missing and unknown fields of a TOML table."""
    for name in required:
        if name not in content:
            refuse(f"{path} cannot be used: missing field {name}; allowed are {in_list(allowed)}")
    for name in content:
        if name not in allowed:
            refuse(f"{path} cannot be used: unknown field {name}; allowed are {in_list(allowed)}")
