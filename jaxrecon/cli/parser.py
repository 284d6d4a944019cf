"""Arguments by sections, of which the rarer ones wait for `--help-all`."""

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jaxrecon.choices import meant
from jaxrecon.cli import process

_COLUMN = 26
"""Where the explanations of options begin."""


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

    def error(self, message: str) -> NoReturn:
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        """The option or the word that a misspelt one is nearest to."""
        unknown = re.fullmatch(r"unrecognized arguments: .*?(--[\w-]+).*", message, re.DOTALL)
        if unknown:
            known = option_names(self)
            return " (of other commands)" if unknown[1] in known else meant(unknown[1], known)
        choice = re.fullmatch(r".*invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        return meant(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of its commands."""
    return {name for action in actions(parser) for name in action.option_strings}


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
