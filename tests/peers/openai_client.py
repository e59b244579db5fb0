"""The official OpenAI client against the daemon: models, an answer whole and in pieces, a picture in the request, usage, and refusals as the client's own errors."""

import argparse
import base64
import tempfile
from pathlib import Path

import openai
from lib.daemon import ROOT, Daemon

QUESTION = "how many yellow planes are there?"


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"wanted {kind.__name__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Daemon(args.binary.resolve(), folder) as daemon:
        frame = daemon.put(ROOT / "samples/drawn.jpg")
        client = openai.OpenAI(base_url=f"{daemon.address}/v1", api_key="none", max_retries=0)
        model = client.models.list().data[0].id
        assert model == "uhr-nano" and client.models.retrieve(model).id == model
        ask = lambda url, **more: client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]}],
            **more,
        )
        whole = ask(f"frame:{frame}", seed=0, max_tokens=8)
        text, usage = whole.choices[0].message.content, whole.usage
        receipt = whole.model_extra["uhr"]["receipt"]
        visual = sum(view["tokens"] for view in receipt["budget"]["per_view"])
        assert text and whole.choices[0].finish_reason == "stop", whole
        assert usage.prompt_tokens_details.model_extra["visual_tokens"] == visual > 2000, usage
        assert usage.prompt_tokens == visual + receipt["tokens"]["text"] and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens
        zero = [receipt["stages_ms"][stage] for stage in ("decode", "views", "encode", "regions")]
        assert zero == [0, 0, 0, 0], zero

        pieces = list(ask("frame:newest", stream=True, stream_options={"include_usage": True}, seed=0))
        told = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert told == text, (told, text)
        assert pieces[-1].usage.prompt_tokens_details.model_extra["visual_tokens"] == visual and pieces[-2].choices[0].finish_reason == "stop"

        data = base64.b64encode((ROOT / "samples/real.jpg").read_bytes()).decode()
        brought = ask(f"data:image/jpeg;base64,{data}", extra_body={"budget": "1500"})
        assert brought.model_extra["uhr"]["receipt"]["budget"]["total"] <= 1500

        error = refused(openai.BadRequestError, lambda: ask("data:image/png;base64,aGVsbG8gd29ybGQgdGhpcyBpcyB0ZXh0"))
        assert "wanted a JPEG, PNG, TIFF or WebP picture" in error.message, error
        assert "nothing is fetched" in refused(openai.BadRequestError, lambda: ask("https://example.com/a.jpg")).message
        refused(openai.NotFoundError, lambda: ask("frame:0000000000000000"))
        assert refused(openai.BadRequestError, lambda: ask("frame:newest", n=2)).param == "n"
        assert "tools" in refused(openai.BadRequestError, lambda: ask("frame:newest", tools=[{"type": "function", "function": {"name": "f"}}])).message
        error = refused(openai.APIStatusError, lambda: ask("frame:newest", extra_body={"budget": "99999"}))
        assert error.status_code == 422 and "the profile allows 11100 tokens" in error.message, (error.status_code, error.message)
        refused(openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}]))
        print(f"openai {openai.__version__}: {text!r} whole and in {len(pieces)} pieces; {usage.prompt_tokens} prompt tokens, {visual} of them visual; second question without an ingest")


if __name__ == "__main__":
    main()
