"""Arguments by sections, of which the rarer ones wait for `--help-all`."""

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jaxrecon.choices import meant
from jaxrecon.cli import process

_COLUMN = 26
"""Where the explanations of options begin."""

_MOST_NEAR = 4
"""So many options are named for one that several begin with."""


class _HelpAll(argparse.Action):
    """Prints the help with every section."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        process.say(parser.format_help(everything=True).rstrip("\n"))
        parser.exit()


class _Store(argparse._StoreAction):
    """Stores what is given; an option of several values that is given again has them all.

    `argparse` drops those that came first: of `--set a=1 --set b=2` it would keep `b=2` alone.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, self.default)
        if option_string and self.nargs in ("+", "*") and before is not self.default:
            values = [*before, *values]
        super().__call__(parser, namespace, values, option_string)


class Parser(argparse.ArgumentParser):
    """A parser whose options stand in sections.

    It says so where its help cannot be written, which `argparse` keeps to itself.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault(
            "formatter_class",
            lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=_COLUMN),
        )
        options.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **options)
        for name in (None, "store"):
            self.register("action", name, _Store)
        self._sections: dict[str, argparse._ArgumentGroup] = {}
        self._rare: list[argparse._ArgumentGroup] = []

    def section(
        self, title: str, description: str | None = None, *, rare: bool = False
    ) -> argparse._ArgumentGroup:
        """The section of that title, made if it is not there.

        Args:
          title: as the help has it.
          description: of a section that is made.
          rare: whether `--help` leaves it to `--help-all`.
        """
        if title not in self._sections:
            self._sections[title] = self.add_argument_group(title, description)
            if rare and not self._rare:
                self.add_argument(
                    "--help-all", action=_HelpAll, nargs=0, help="every option there is, and exit"
                )
            if rare:
                self._rare.append(self._sections[title])
        return self._sections[title]

    def _match_arguments_partial(
        self, actions: Sequence[argparse.Action], arg_strings_pattern: str
    ) -> list[int]:
        """How many words each argument takes; one that may be left out can follow an option.

        Python before 3.12.7 takes it for left out once an option comes before it.
        """
        counts = super()._match_arguments_partial(actions, arg_strings_pattern)
        if "O" in arg_strings_pattern[sum(counts) :]:
            while counts and not counts[-1]:
                counts.pop()
        return counts

    def format_usage(self) -> str:
        formatter = self._get_formatter()
        self._add_usage(formatter, self._hidden())
        return formatter.format_help()

    def format_help(self, *, everything: bool = False) -> str:
        """The help, of rare sections too if `everything`."""
        hidden = [] if everything else self._hidden()
        formatter = self._get_formatter()
        self._add_usage(formatter, hidden)
        formatter.add_text(self.description)
        for group in self._action_groups:
            shown = [action for action in group._group_actions if action not in hidden]
            formatter.start_section(group.title)
            formatter.add_text(group.description if shown else None)
            formatter.add_arguments(shown)
            formatter.end_section()
        if hidden:
            titles = ", ".join(str(group.title) for group in self._rare)
            width = formatter._width - formatter._current_indent
            formatter.add_text(textwrap.fill(f"--help-all has more: {titles}.", width))
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _add_usage(self, formatter: argparse.HelpFormatter, hidden: list[argparse.Action]) -> None:
        shown = [action for action in self._actions if action not in hidden]
        groups = [
            group
            for group in self._mutually_exclusive_groups
            if all(action in shown for action in group._group_actions)
        ]
        formatter.add_usage(self.usage, shown, groups)

    def _hidden(self) -> list[argparse.Action]:
        return [action for group in self._rare for action in group._group_actions]

    def print_help(self, file: Any = None) -> None:
        if file is None:
            process.say(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """As `argparse` does it, once no option is unknown.

        `argparse` looks for unknown ones last: of a misspelt option that is required it would say
        only that it is not there.
        """
        words = list(sys.argv[1:] if args is None else args)
        self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_options(self, words: Sequence[str]) -> None:
        """Refuses options that the parser, or the command that the words name, does not have."""
        parser, commands = self, _commands(self)
        for word in words:
            if word == "--":
                return
            if not word.startswith("-"):
                parser, commands = commands.get(word, parser), {}
            elif word.startswith("--") and " " not in word:  # with a space it is a value
                name = word.partition("=")[0]
                if name not in parser._option_string_actions:
                    self.error(f"unrecognized arguments: {word}{_near(name, parser, self)}")

    def error(self, message: str) -> NoReturn:
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        """The word that a misspelt one is nearest to."""
        choice = re.fullmatch(r".*invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        return meant(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""


def _near(name: str, parser: argparse.ArgumentParser, whole: argparse.ArgumentParser) -> str:
    """The options that an unknown one is near to, as the end of a message.

    Args:
      name: the unknown one.
      parser: of the command that it was given to.
      whole: of all commands.
    """
    known = sorted(parser._option_string_actions)
    longer = [each for each in known if each.startswith(name)]
    if 0 < len(longer) <= _MOST_NEAR and len(name) > 2:
        return f"; did you mean {' or '.join(longer)}?"
    if name in option_names(whole):
        return " (of other commands)"
    return meant(name, known) or meant(name, option_names(whole))


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of its commands."""
    return {name for action in actions(parser) for name in action.option_strings}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    yield from parser._actions
    for command in _commands(parser).values():
        yield from actions(command)


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, Any]:
    """The parsers of its commands, by name."""
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return {name: command for group in groups for name, command in group.choices.items()}
