"""What English and Chinese call the things of a scene, and their ways to make a sentence of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """One language. `things` have {color} {shape} {size}; `sentences` {thing}, {moves} (a motion as a finite
    verb), {moving} (as a participle) and {behind} (the background; without it a sentence does not tell)."""

    colors: dict[str, tuple[str, ...]]
    shapes: dict[str, tuple[str, ...]]
    sizes: dict[str, tuple[str, ...]]
    backgrounds: dict[str, tuple[str, ...]]
    motions: dict[str, tuple[tuple[str, str], ...]]
    things: tuple[str, ...]
    plain_things: tuple[str, ...]
    behind: tuple[str, ...]
    sentences: tuple[str, ...]
    pairs: tuple[str, ...]
    fillers: tuple[str, ...]
    gap: str


# What a sentence may have that says nothing of the scene: manners, and the commonest words of the language.
_EMPTY_ENGLISH = """
slowly smoothly gently just quite nicely simple plain cartoon 2d please very now
the of to and in it that was for as with his they be at this from have by what some we can other were all your
when use word how said an each she which do their time if will way about many then them would write like so
these her make thing look has could come did my sound no most know than call people may side been who keep let
"""
_EMPTY_CHINESE = """
慢慢 轻轻 缓缓 平稳地 卡通 简单的 请 正 就
的 了 是 我 这 那 有 们 你 来 要 把 让 会 能 着 也 都 看 去 吧 还 再 又 很 这样 可以
"""

ENGLISH = Words(
    colors={name: (name,) for name in ("red", "orange", "yellow", "green", "blue", "pink")}
    | {"cyan": ("cyan", "cyan", "turquoise"), "purple": ("purple", "purple", "violet")},
    shapes={
        "circle": ("circle", "circle", "disc", "ball", "dot"),
        "square": ("square", "square", "box", "block"),
        "triangle": ("triangle",),
        "star": ("star", "star", "five-pointed star"),
        "heart": ("heart", "heart", "heart shape"),
        "cross": ("cross", "cross", "plus sign", "plus"),
    },
    sizes={
        "small": ("small", "little", "tiny"),
        "medium": ("medium", "medium-sized"),
        "large": ("large", "big", "huge"),
    },
    backgrounds={
        "black": ("black",),
        "white": ("white",),
        "gray": ("gray", "grey"),
        "brown": ("brown",),
        "navy": ("navy", "navy blue", "dark blue"),
    },
    motions={
        "left": (
            ("moves left", "moving left"),
            ("slides to the left", "sliding to the left"),
            ("drifts leftwards", "drifting leftwards"),
            ("goes from right to left", "going from right to left"),
            ("travels toward the left side", "travelling toward the left side"),
            ("flies left", "flying left"),
        ),
        "right": (
            ("moves right", "moving right"),
            ("slides to the right", "sliding to the right"),
            ("drifts rightwards", "drifting rightwards"),
            ("goes from left to right", "going from left to right"),
            ("travels toward the right side", "travelling toward the right side"),
            ("flies right", "flying right"),
        ),
        "up": (
            ("moves up", "moving up"),
            ("rises", "rising"),
            ("goes upwards", "going upwards"),
            ("slides up to the top", "sliding up to the top"),
            ("climbs", "climbing"),
            ("floats up", "floating up"),
        ),
        "down": (
            ("moves down", "moving down"),
            ("falls", "falling"),
            ("goes downwards", "going downwards"),
            ("slides down to the bottom", "sliding down to the bottom"),
            ("sinks", "sinking"),
            ("drops down", "dropping down"),
        ),
        "up_left": (
            ("moves up and left", "moving up and left"),
            ("moves diagonally to the upper left", "moving diagonally to the upper left"),
            ("flies toward the top left corner", "flying toward the top left corner"),
            ("drifts up-left", "drifting up-left"),
        ),
        "up_right": (
            ("moves up and right", "moving up and right"),
            ("moves diagonally to the upper right", "moving diagonally to the upper right"),
            ("flies toward the top right corner", "flying toward the top right corner"),
            ("drifts up-right", "drifting up-right"),
        ),
        "down_left": (
            ("moves down and left", "moving down and left"),
            ("moves diagonally to the lower left", "moving diagonally to the lower left"),
            ("flies toward the bottom left corner", "flying toward the bottom left corner"),
            ("drifts down-left", "drifting down-left"),
        ),
        "down_right": (
            ("moves down and right", "moving down and right"),
            ("moves diagonally to the lower right", "moving diagonally to the lower right"),
            ("flies toward the bottom right corner", "flying toward the bottom right corner"),
            ("drifts down-right", "drifting down-right"),
        ),
        "circle": (
            ("moves in a circle", "moving in a circle"),
            ("circles around", "circling around"),
            ("orbits the center", "orbiting the center"),
            ("goes around in circles", "going around in circles"),
            ("travels along a circular path", "travelling along a circular path"),
        ),
        "bounce": (
            ("bounces", "bouncing"),
            ("bounces up and down", "bouncing up and down"),
            ("jumps up and down", "jumping up and down"),
            ("hops", "hopping"),
        ),
        "grow": (
            ("grows", "growing"),
            ("gets bigger", "getting bigger"),
            ("becomes larger", "becoming larger"),
            ("expands", "expanding"),
            ("grows in size", "growing in size"),
        ),
        "shrink": (
            ("shrinks", "shrinking"),
            ("gets smaller", "getting smaller"),
            ("becomes smaller", "becoming smaller"),
            ("contracts", "contracting"),
            ("shrinks in size", "shrinking in size"),
        ),
        "rotate": (
            ("rotates", "rotating"),
            ("spins", "spinning"),
            ("turns around itself", "turning around itself"),
            ("spins in place", "spinning in place"),
            ("rotates clockwise", "rotating clockwise"),
        ),
        "still": (
            ("stays still", "staying still"),
            ("does not move", "not moving"),
            ("stands still", "standing still"),
            ("rests", "resting"),
            ("stays in place", "staying in place"),
        ),
    },
    things=(
        "a {size} {color} {shape}",
        "one {size} {color} {shape}",
        "the {size} {color} {shape}",
        "a {size} {shape} in {color}",
        "a {color} {shape} of {size} size",
        "{size} {color} {shape}",
    ),
    plain_things=(
        "a {color} {shape}",
        "one {color} {shape}",
        "the {color} {shape}",
        "a {shape} in {color}",
        "{color} {shape}",
        "a {shape} that is {color}",
    ),
    behind=(
        "on a {background} background",
        "against a {background} background",
        "in front of a {background} background",
        "over a {background} backdrop",
        "on {background}",
        "with a {background} background",
        "the background is {background}",
        "{background} scene",
        "on a {background} canvas",
        "{background} wall in the back",
        "surrounded by {background}",
        "{background} all over",
    ),
    sentences=(
        "{thing} {moves}",
        "{thing} {moves}.",
        "{thing} {moving}",
        "a video of {thing} {moving}",
        "show {thing} {moving}",
        "there is {thing} that {moves}",
        "animation: {thing} {moves}",
        "we see how {thing} {moves}",
        "{thing} {moves} {behind}",
        "{thing} {moving} {behind}.",
        "{behind}, {thing} {moves}",
        "{behind} {thing} is {moving}",
        "a video of {thing} {moving} {behind}",
        "a clip with {thing} {moving} {behind}",
        "show {thing} {behind} that {moves}",
        "{thing} {behind} {moves}",
        "{thing} is {moving}, {behind}",
        "please draw {thing} {moving} {behind}",
        "generate a short clip: {thing}, {moving}, {behind}",
        "{moving}: {thing}",
        "{thing}: {moving}",
        "{moving} is {thing}",
        "let there be {thing}, {moving}",
        "{behind}: {thing} {moves}",
        "{thing}; {moving}; {behind}",
        "{thing}. It is {moving}. {behind}.",
        "{behind}; {thing}, which {moves}",
        "{moving}: {thing}, {behind}",
        "{thing}, {behind}, {moving}",
    ),
    pairs=(
        "{first} and {second}",
        "{first}, and {second}",
        "{first} while {second}",
        "{first}, {second}",
        "{first} on the left, {second} on the right",
        "on the left {first} and on the right {second}",
        "two shapes: {first} and {second}",
        "{first} next to it {second}",
        "first: {first}; second: {second}",
        "one thing: {first}. Another: {second}",
        "{first}. {second}",
        "{first}; {second}",
        "both at once: {first}, {second}",
        "{first} with {second}",
        "{first} as well as {second}",
    ),
    fillers=tuple(_EMPTY_ENGLISH.split()),
    gap=" ",
)

CHINESE = Words(
    colors={
        "red": ("红色", "红"),
        "orange": ("橙色", "橘色", "橙"),
        "yellow": ("黄色", "黄"),
        "green": ("绿色", "绿"),
        "cyan": ("青色", "青"),
        "blue": ("蓝色", "蓝"),
        "purple": ("紫色", "紫"),
        "pink": ("粉色", "粉红色", "粉红"),
    },
    shapes={
        "circle": ("圆形", "圆", "圆球", "圆点"),
        "square": ("正方形", "方块", "方形"),
        "triangle": ("三角形", "三角"),
        "star": ("星星", "五角星", "星形"),
        "heart": ("心形", "爱心", "心"),
        "cross": ("十字", "十字形", "加号"),
    },
    sizes={
        "small": ("小", "小小的", "很小的"),
        "medium": ("中等大小的", "中等的"),
        "large": ("大", "大大的", "很大的"),
    },
    backgrounds={
        "black": ("黑色", "黑"),
        "white": ("白色", "白"),
        "gray": ("灰色", "灰"),
        "brown": ("棕色", "褐色"),
        "navy": ("深蓝色", "藏青色", "深蓝"),
    },
    motions={
        "left": (
            ("向左移动", "向左移动"),
            ("往左边滑动", "往左滑"),
            ("从右向左移动", "从右往左走"),
            ("向左飘", "向左飘动"),
        ),
        "right": (
            ("向右移动", "向右移动"),
            ("往右边滑动", "往右滑"),
            ("从左向右移动", "从左往右走"),
            ("向右飘", "向右飘动"),
        ),
        "up": (("向上移动", "向上移动"), ("上升", "往上升"), ("往上滑动", "往上滑"), ("向上飘", "向上飘动")),
        "down": (("向下移动", "向下移动"), ("下落", "往下落"), ("往下滑动", "往下滑"), ("下沉", "向下掉落")),
        "up_left": (
            ("向左上方移动", "向左上移动"),
            ("斜着飞向左上角", "飞向左上角"),
            ("往左上方飘", "往左上飘"),
        ),
        "up_right": (
            ("向右上方移动", "向右上移动"),
            ("斜着飞向右上角", "飞向右上角"),
            ("往右上方飘", "往右上飘"),
        ),
        "down_left": (
            ("向左下方移动", "向左下移动"),
            ("斜着飞向左下角", "飞向左下角"),
            ("往左下方飘", "往左下飘"),
        ),
        "down_right": (
            ("向右下方移动", "向右下移动"),
            ("斜着飞向右下角", "飞向右下角"),
            ("往右下方飘", "往右下飘"),
        ),
        "circle": (
            ("绕圈移动", "绕圈"),
            ("沿圆形路径移动", "转着圈移动"),
            ("围绕中心转圈", "绕着中心转圈"),
            ("做圆周运动", "兜圈子"),
        ),
        "bounce": (
            ("上下弹跳", "弹跳"),
            ("跳动", "上下跳动"),
            ("蹦蹦跳跳", "一蹦一跳"),
            ("弹来弹去", "反弹"),
        ),
        "grow": (("变大", "逐渐变大"), ("越来越大", "不断变大"), ("放大", "逐渐放大"), ("扩大", "膨胀")),
        "shrink": (("变小", "逐渐变小"), ("越来越小", "不断变小"), ("缩小", "逐渐缩小"), ("收缩", "缩小")),
        "rotate": (
            ("旋转", "不停旋转"),
            ("原地旋转", "自转"),
            ("原地打转", "转动"),
            ("顺时针旋转", "顺时针转动"),
        ),
        "still": (
            ("静止不动", "静止"),
            ("保持不动", "不动"),
            ("停在原地", "停着不动"),
            ("一动不动", "静静地待着"),
        ),
    },
    things=(
        "一个{size}{color}{shape}",
        "一个{size}的{color}{shape}",
        "{size}{color}的{shape}",
        "一个{color}的{size}{shape}",
        "{size}{color}{shape}",
    ),
    plain_things=(
        "一个{color}{shape}",
        "一个{color}的{shape}",
        "{color}{shape}",
        "{color}的{shape}",
        "一只{color}{shape}",
    ),
    behind=(
        "{background}背景",
        "背景是{background}",
        "{background}的背景",
        "背景为{background}",
        "以{background}为背景",
        "{background}的场景",
        "在{background}画布上",
        "背后是{background}",
        "{background}幕布",
        "到处是{background}",
    ),
    sentences=(
        "{thing}{moves}",
        "{thing}{moves}。",
        "{thing}在{moving}",
        "视频:{thing}{moves}",
        "画一个视频,{thing}{moving}",
        "有{thing}{moves}",
        "{thing}正在{moving}",
        "{thing}{moves},{behind}",
        "{behind},{thing}{moves}",
        "{behind}上,{thing}{moves}",
        "{behind}前有{thing}在{moving}",
        "{thing}在{moving},{behind}。",
        "请生成{thing}{moving}的视频,{behind}",
        "动画:{thing}{moves},{behind}",
        "{behind}。{thing}{moves}。",
        "一段{thing}{moving}的短片,{behind}",
        "{moving}的{thing}",
        "{moving}的{thing},{behind}",
        "{thing}:{moving},{behind}",
        "{behind}:{thing}{moves}",
    ),
    pairs=(
        "{first}和{second}",
        "{first},{second}",
        "左边{first},右边{second}",
        "{first},同时{second}",
        "左边是{first},右边是{second}",
        "两个图形:{first},{second}",
        "{first}。{second}",
        "一边{first},一边{second}",
        "{first},旁边{second}",
    ),
    fillers=tuple(_EMPTY_CHINESE.split()),
    gap="",
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
