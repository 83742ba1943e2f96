"""A drip campaign: four mails over eleven days, ended early when the account is deleted."""

import stepfold

app = stepfold.App("mail")
sent: list[tuple[str, str]] = []


def send_mail(to: str, template: str) -> None:
    sent.append((to, template))


@app.function(
    "drip",
    on="user/signed-up",
    cancel_on=stepfold.CancelOn("user/deleted", match="data.email"),
)
async def drip(ctx: stepfold.Context) -> int:
    to = ctx.event.data["email"]
    campaign = [("welcome", None), ("tips", "1d"), ("story", "3d"), ("offer", "7d")]
    for template, pause in campaign:
        if pause:
            await ctx.step.sleep("pause", pause)
        await ctx.step.run("send", send_mail, to, template)
    return len(campaign)
