"""What the exports take along to where they are served: template, tokens, lines."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from grpo_course import elsewhere, llama_cpp, template
from grpo_course.grpo_data import as_prompt
from grpo_course.llama_cpp import LlamaCppError
from grpo_course.template import apply_template

TINY = Path(__file__).parents[1] / "models" / "tiny-qwen3"
CONVERSATIONS = [
    as_prompt("What is 6*7?"),
    as_prompt('A "quoted" <b>question</b> & {{ .Content }}\n\nwith 3 lines'),
    [
        *as_prompt("1+1?"),
        {"role": "assistant", "content": "1+1=2.<end_working_out><SOLUTION>2"},
        {"role": "user", "content": "And 2+2?"},
    ],
]
GO = """
package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }

func main() {
    var all [][]Message
    text, _ := os.ReadFile("template.txt")
    json.NewDecoder(os.Stdin).Decode(&all)
    rendered := []string{}
    parsed := template.Must(template.New("").Parse(string(text)))
    for _, messages := range all {
        file, _ := os.Create("rendered.txt")
        data := map[string]any{"Messages": messages}
        if err := parsed.Execute(file, data); err != nil { panic(err) }
        file.Close()
        found, _ := os.ReadFile("rendered.txt")
        rendered = append(rendered, string(found))
    }
    json.NewEncoder(os.Stdout).Encode(rendered)
}
"""


@pytest.fixture(scope="module")
def tokenizer():
    return apply_template(AutoTokenizer.from_pretrained(TINY))


def _in_go(text: str, folder: Path) -> list[str]:
    """The conversations by Go's own template engine, as Ollama uses it."""
    (folder / "main.go").write_text(GO)
    (folder / "template.txt").write_text(text)
    done = subprocess.run(
        ["go", "run", "main.go"],
        cwd=folder,
        input=json.dumps(CONVERSATIONS),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _by_hand(text: str, folder: Path) -> list[str]:
    """The same for templates of this shape, where there is no Go."""
    turn, opening = re.fullmatch(
        r"{{ range \.Messages }}(.*){{ end }}([^{}]*)", text, re.DOTALL
    ).groups()
    unless_user = re.compile(r'{{ if ne \.Role "user" }}([^{}]*){{ end }}')

    def rendered(message: dict) -> str:
        shown = r"\1" if message["role"] != "user" else ""
        text = unless_user.sub(shown, turn).replace("{{ .Role }}", message["role"])
        return text.replace("{{ .Content }}", message["content"])

    return ["".join(map(rendered, messages)) + opening for messages in CONVERSATIONS]


@pytest.mark.parametrize("form", template.FORMS)
@pytest.mark.parametrize("engine", [_by_hand, _in_go])
def test_ollama_renders_conversations_as_the_tokenizer_does(
    form, engine, tmp_path, monkeypatch
):
    if engine is _in_go and not shutil.which("go"):
        pytest.skip("there is no Go here")
    monkeypatch.setattr(template, "FORM", form)
    monkeypatch.setattr(template, "REASONING_START", template.FORMS[form][0])
    tokenizer = apply_template(AutoTokenizer.from_pretrained(TINY))
    lines = elsewhere.modelfile("model.gguf", tokenizer, 384)
    text = re.search(r'TEMPLATE """(.*?)"""', lines, re.DOTALL)[1]
    assert engine(text, tmp_path) == [
        tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
        for c in CONVERSATIONS
    ]


def test_a_modelfile_names_the_file_the_system_prompt_and_the_end(tokenizer):
    lines = elsewhere.modelfile("my.Q8_0.gguf", tokenizer, 384)
    assert lines.startswith("FROM ./my.Q8_0.gguf\n")
    system = re.search(r'SYSTEM """(.*?)"""', lines, re.DOTALL)[1]
    assert system == CONVERSATIONS[0][0]["content"]
    assert f'PARAMETER stop "{tokenizer.eos_token}"\n' in lines
    assert "PARAMETER num_ctx 384\n" in lines


# --- llama.cpp: a stand-in for its server ---------------------------------------------

SERVER = """#!{python}
import http.server, json, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
model = open(sys.argv[sys.argv.index("--model") + 1]).read()
if model == "broken":
    sys.exit("no such tensor")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {{"status": "ok"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(400 if model == "angry" else 200, {{
            "content": asked.get("prompt", ""),
            "tokens_predicted": asked.get("n_predict"),
            "stop_type": "eos" if asked.get("n_predict", 0) > 5 else "limit",
            "tokens": [ord(c) for c in asked.get("content", "")],
            "prompt": json.dumps(asked.get("messages")),
        }})

    def reply(self, code, body):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "llama.cpp"))
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    for name in llama_cpp.PROGRAMS:
        (folder / name).write_text(SERVER.format(python=sys.executable))
        (folder / name).chmod(0o755)
    (folder / llama_cpp.CONVERTER).write_text("")
    return folder


def served(tmp_path, content: str):
    model = tmp_path / "model.gguf"
    model.write_text(content)
    return llama_cpp.serve(model, context=64)


def test_a_server_answers_and_is_gone_afterwards(stand_in, tmp_path):
    with served(tmp_path, "fine") as server:
        whole, cut = server.complete("2+2=", 9), server.complete("2+2=", 3)
        assert (whole.text, whole.tokens, whole.truncated) == ("2+2=", 9, False)
        assert cut.truncated
        assert server.token_ids("ab") == [97, 98]
        assert json.loads(server.render(CONVERSATIONS[0])) == CONVERSATIONS[0]
    with pytest.raises(OSError):
        server.complete("2+2=", 9)


def test_a_server_that_dies_or_refuses_says_why(stand_in, tmp_path):
    with pytest.raises(LlamaCppError, match="no such tensor"):
        with served(tmp_path, "broken"):
            pass
    with served(tmp_path, "angry") as server:
        with pytest.raises(LlamaCppError, match="content"):
            server.complete("2+2=", 9)


@pytest.mark.parametrize("lost", [*llama_cpp.PROGRAMS, llama_cpp.CONVERTER])
def test_a_missing_part_of_llama_cpp_is_named(lost, stand_in):
    llama_cpp.check()
    (stand_in / lost).unlink()
    with pytest.raises(LlamaCppError) as error:
        llama_cpp.check()
    assert lost in str(error.value) and "\n" not in str(error.value)
