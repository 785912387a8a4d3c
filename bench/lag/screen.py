"""A program on an X display that shows what `bench.lag.desktop` shows: a picture that changes 30
times a second, and a corner whose colour counts the keys pressed.

Run as `python -m bench.lag.screen`, with DISPLAY set; prints a line when it shows.
"""

from __future__ import annotations

import random
import select
import time

from Xlib import X
from Xlib.display import Display

from bench.lag.desktop import CORNER_PX, FRAMES_PER_S, PICTURE_PX


def main() -> None:
    display = Display()
    screen = display.screen()
    root, depth = screen.root, screen.root_depth
    x, y, w, h = PICTURE_PX
    window = root.create_window(x, y, w, h, 0, depth, override_redirect=True)
    corner = root.create_window(
        *(0, 0, CORNER_PX, CORNER_PX, 0, depth),
        override_redirect=True,
        background_pixel=0,
        event_mask=X.KeyPressMask,
    )
    context = window.create_gc()
    noise = random.Random(6143)
    pictures = []
    for _ in range(4):
        picture = root.create_pixmap(w, h, depth)
        picture.put_image(context, 0, 0, w, h, X.ZPixmap, depth, 0, noise.randbytes(4 * w * h))
        pictures.append(picture)
    window.map()
    corner.map()
    corner.grab_keyboard(False, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
    display.change_keyboard_control(auto_repeat_mode=X.AutoRepeatModeOff)
    display.sync()
    print("ready", flush=True)
    keys = frame = 0
    begin = time.monotonic()
    while True:
        rest_s = begin + frame / FRAMES_PER_S - time.monotonic()
        if rest_s > 0 and not display.pending_events():
            select.select([display], [], [], rest_s)
        while display.pending_events():
            keys += display.next_event().type == X.KeyPress
            corner.change_attributes(background_pixel=keys)
            corner.clear_area()
        if begin + frame / FRAMES_PER_S <= time.monotonic():
            window.copy_area(context, pictures[frame % len(pictures)], 0, 0, w, h, 0, 0)
            frame += 1
        display.flush()


if __name__ == "__main__":
    main()
