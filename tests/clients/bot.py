"""A bot with simplematrixbotlib, unmodified: it joins where it is invited and answers `!echo`.

Runs in a virtualenv of its own: the library wants an older Pillow than the server.

    python bot.py HOMESERVER USER PASSWORD
"""

import sys

import simplematrixbotlib  # type: ignore[import-not-found]  # in another virtualenv

bot = simplematrixbotlib.Bot(simplematrixbotlib.Creds(*sys.argv[1:4]))


@bot.listener.on_message_event
async def echo(room, message):  # type: ignore[no-untyped-def]  # it has no types
    """Say again what is said after `!echo`."""
    match = simplematrixbotlib.MessageMatch(room, message, bot, "!")
    if match.is_not_from_this_bot() and match.prefix() and match.command("echo"):
        await bot.api.send_text_message(room.room_id, " ".join(match.args()))


bot.run()
