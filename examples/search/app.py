"""A search index: a document is indexed when its author pauses, and every night all are checked."""

import stepfold

app = stepfold.App("search")
documents: dict[str, str] = {}
index: dict[str, str] = {}


def put(document: str, text: str) -> None:
    index[document] = text


def missing() -> list[str]:
    return sorted(d for d, text in documents.items() if index.get(d) != text)


@app.function(
    "index",
    on="document/edited",
    debounce=stepfold.Debounce("30s", key="data.document", timeout="10m"),
)
async def index_document(ctx: stepfold.Context) -> str:
    document = ctx.event.data["document"]
    await ctx.step.run("put", put, document, ctx.event.data["text"])
    return document


@app.function("check", cron="TZ=Europe/Paris 30 2 * * *")
async def check(ctx: stepfold.Context) -> list[str]:
    found = await ctx.step.run("missing", missing)
    for document in found:
        await ctx.step.run(f"mend {document}", put, document, documents[document])
    return found
