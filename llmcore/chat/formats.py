"""The table of formats that models write calls in, told apart by what the chat template's own text has.

A template that repeats an earlier call writes it as its model does. So a format is known by its markers,
pieces of text all of which the template has, and a model's name is never asked for. Sources: the templates
themselves (70 of them are in tests/data/templates.json.gz), and the models' cards where a template writes no
calls.
"""
# ruff: noqa: RUF001 (DeepSeek's tokens have a wide bar)

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .calls import BARE, named, objects, read_bare, read_gemma, read_mistral, read_python
from .tags import NESTED, Tags, read_nested, read_tags


@dataclass(frozen=True)
class Format:
    """A way to write calls: `read(text, at, types)` reads those where the regular expression `begin` matches.

    `drop` matches control tokens that stand around an answer and are no part of it. `messages`: an answer is
    several messages, each with a header that says for whom it is. `ids`: what a template expects as the id of
    a call of the tool `name`, the n-th of a conversation; nine letters and digits, as Mistral's demand.
    """

    name: str
    marks: tuple[str, ...]
    begin: str = r"(?!)"  # nowhere
    read: Callable | None = None
    drop: str = r"(?!)"
    messages: bool = False
    ids: str = "call{n:05}"


def _function(outer):
    """<function=f><parameter=a>1</parameter></function> in an outer tag."""
    return Tags(
        section=f"<{outer}>",
        call=r"<function=(?P<name>[^>\n]+)>",
        key=r"<parameter=(?P<key>[^>\n]+)>",
        end_value="</parameter>",
        end_call="</function>",
        end_section=f"</{outer}>",
    )


def _invoke(outer, prefix=""):
    """<invoke name="f"><parameter name="a">1</parameter></invoke> in an outer tag."""
    return Tags(
        section=f"<{outer}>",
        call=rf'<{prefix}invoke name="(?P<name>[^"]+)">',
        key=rf'<{prefix}parameter name="(?P<key>[^"]+)"(?: string="(?P<kind>true|false)")?>',
        end_value=f"</{prefix}parameter>",
        end_call=f"</{prefix}invoke>",
        end_section=f"</{outer}>",
    )


def _glm(suffix=""):
    """<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>."""
    return Tags(
        section=f"<tool_calls{suffix}>" if suffix else "",
        call=rf"<tool_call{suffix}>\s*(?P<name>[^<>\s]+)\s*(?:<tool_sep{suffix}>)?(?=\s*<(?:arg_key|/tool_call){suffix}>)",
        key=rf"<arg_key{suffix}>(?P<key>[^<]+)</arg_key{suffix}>\s*<arg_value{suffix}>",
        end_value=f"</arg_value{suffix}>",
        end_call=f"</tool_call{suffix}>",
        end_section=f"</tool_calls{suffix}>" if suffix else "",
    )


SEED, QWEN, MINIMAX = _function("seed:tool_call"), _function("tool_call"), _invoke("minimax:tool_call")
DSML = _invoke("｜DSML｜(?:function|tool)_calls", "｜DSML｜")
ATEM = _invoke("atem:function_calls", "atem:")
GLM, HUNYUAN = _glm(), _glm(":opensource")
MINICPM = Tags(
    section="",
    call=r'<function name="(?P<name>[^"]+)">',
    key=r'<param name="(?P<key>[^"]+)">',
    end_value="</param>",
    end_call="</function>",
    end_section="",
    cdata=True,
)
KIMI_3 = Tags(
    section=r"<\|open\|>tools<\|sep\|>",
    call=r'<\|open\|>call tool="(?P<name>[^"]+)"[^<]*<\|sep\|>',
    key=r'<\|open\|>argument key="(?P<key>[^"]+)"(?: type="(?P<kind>\w+)")?<\|sep\|>',
    end_value=r"<\|close\|>argument<\|sep\|>",
    end_call=r"<\|close\|>call<\|sep\|>",
    end_section=r"<\|close\|>tools<\|sep\|>",
)
KIMI = named(
    r"(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>\s*(?P<name>[^<]+?)(?::\d+)?\s*"
    r"<\|tool_call_argument_begin\|>\s*",
    close=r"<\|tool_call_end\|>",
    section=r"<\|tool_calls_section_end\|>",
)
DEEPSEEK = named(  # function<sep>NAME, then fenced JSON (R1); or NAME<sep>, then JSON (V3.1)
    r"(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>\s*(?:function<｜tool▁sep｜>(?!\s*\{))?"
    r"(?P<name>[^<\n`{]+?)\s*(?:<｜tool▁sep｜>|```(?:json)?)\s*",
    close="<｜tool▁call▁end｜>",
    section="<｜tool▁calls▁end｜>",
)
SOLAR = named(
    r"(?:<\|tool_calls\|>\s*)?<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>(?P<name>[^<]+)<\|tool_call:args\|>\s*",
    close=r"<\|tool_call:end\|>",
    section=r"<\|calls\|>",
)
FUNCTIONARY = named(r"<function=(?P<name>[^>\n]+)>\s*", close="</function>")
RECIPIENT = named(r"(?:>>>)?(?!all\n)(?P<name>[\w.-]+)\n\s*(?=\{)", close=r"(?=>>>)")
COHERE = r"<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|CHATBOT_TOKEN\|>"
SOLAR_DROP = r"(?:<\|begin\|>assistant)?<\|content\|>|<\|begin\|>assistant|<\|end\|>"

# What is special stands before what is general: the first whose markers the template has counts.
TABLE = (
    Format("harmony", ("<|channel|>", "<|message|>"), messages=True),
    Format("atem", ("atem:", "<|message|>"), ATEM.begin, partial(read_tags, ATEM, False), messages=True),
    Format(
        "kimi-k3",
        ("'<|open|>'", "'<|close|>'"),
        KIMI_3.begin,
        partial(read_tags, KIMI_3, False),
        drop=r"<\|(?:open|close)\|>(?:response|message)(?: [^<]*)?<\|sep\|>|<\|end_of_msg\|>",
    ),
    Format("minimax-m3", ("]<]minimax[>[",), NESTED.begin, read_nested),
    Format("minimax-m2", ("<minimax:tool_call>",), MINIMAX.begin, partial(read_tags, MINIMAX, False)),
    Format("deepseek-dsml", ("｜DSML｜",), DSML.begin, partial(read_tags, DSML, False)),
    Format("deepseek", ("<｜tool▁call▁begin｜>",), "<｜tool▁calls?▁begin｜>", DEEPSEEK),
    Format(
        "kimi-k2",
        ("<|tool_call_begin|>",),
        r"<\|tool_calls_section_begin\|>|<\|tool_call_begin\|>",
        KIMI,
        ids="functions.{name}:{n}",
    ),
    Format(
        "gemma-4",
        ("<|tool_call>",),
        r"<\|tool_call>",
        read_gemma,
        drop=r"<\|channel>|<channel\|>|<\|tool_response>",
    ),
    Format("solar", ("<|tool_call:begin|>",), r"<\|tool_calls\|>|<\|tool_call:begin\|>", SOLAR, SOLAR_DROP),
    Format(
        "command", ("<|START_ACTION|>",), *objects(r"<\|START_ACTION\|>", r"<\|END_ACTION\|>"), drop=COHERE
    ),
    Format(
        "command-r-plus", ("Action:", "tool_name"), *objects(r"Action:\s*```(?:json)?", "```"), drop=COHERE
    ),
    Format("seed", ("<seed:tool_call>",), SEED.begin, partial(read_tags, SEED, False)),
    Format("function-tags", ("<function=", "<parameter="), QWEN.begin, partial(read_tags, QWEN, False)),
    Format("minicpm", ("<function name=",), MINICPM.begin, partial(read_tags, MINICPM, False)),
    Format("functionary-3.1", ("<function=",), "<function=", FUNCTIONARY),
    Format(
        "functionary-3.2",
        (">>>", "recipient"),
        r"(?:\A|>>>)(?!all\n)[\w.-]+\n\s*\{",
        RECIPIENT,
        r"(?:\A|>>>)all\n",
    ),
    Format("glm", ("<arg_key>",), "<tool_call>", partial(read_tags, GLM, False)),
    Format("hunyuan", ("'<arg_key{}>'",), "<tool_calls?:opensource>", partial(read_tags, HUNYUAN, False)),
    Format("mistral", ("[TOOL_CALLS]",), r"\[TOOL_CALLS\]", read_mistral),
    Format("lfm2", ("<|tool_call_start|>",), r"<\|tool_call_start\|>", read_python),
    Format("lfm2", ("List of tools: ",), r"<\|tool_call_start\|>", read_python),
    Format("apertus", ("<|tools_prefix|>",), *objects(r"<\|tools_prefix\|>", r"<\|tools_suffix\|>")),
    Format("gigachat-3.1", ("<|function_call|>",), *objects(r"<\|function_call\|>")),
    Format(
        "gigachat-3",
        ("'function call'", "<|role_sep|>"),
        *objects(r"(?:<\|message_sep\|>\s*)?function call<\|role_sep\|>"),
    ),
    Format("toolcall", ("<TOOLCALL>",), *objects("<TOOLCALL>", "</TOOLCALL>")),
    Format("tool-calls", ("<tool_calls>",), *objects("<tool_calls>", "</tool_calls>")),
    Format("hermes", ("<tool_call>",), *objects("<tool_call>", "</tool_call>")),
    Format(
        "granite-3",
        ("<|tool_call|>",),
        *objects(r"<\|tool_call\|>", r"<\|/tool_call\|>"),
        drop=r"</?response>",
    ),
    Format("functools", ("functools",), *objects(r"functools(?=\s*\[)")),
    Format("llama-3", ('"parameters": ',), BARE, read_bare),
)
LINES = re.compile(
    r"<parameter=[^>\n]*>(?:\\n|\n)"
)  # the example of a call has its values on lines of their own
# Ends of a turn; a file that does not mark its own as a control token lets it through as text.
ENDS = (
    "<|im_end|>",
    "<|role_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<turn|>",
)


def format_of(template: str) -> Format | None:
    """The format that a template's calls have; None if it writes no calls that we know."""
    found = next((entry for entry in TABLE if all(mark in template for mark in entry.marks)), None)
    if found and found.name == "function-tags":
        return Format(
            found.name, found.marks, found.begin, partial(read_tags, QWEN, bool(LINES.search(template)))
        )
    return found
