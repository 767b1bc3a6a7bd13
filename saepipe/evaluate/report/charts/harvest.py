"""Caches of the runs: throughput of the harvest, norms of the activations, and scales of the channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saepipe.data.cache.cache import ActivationStats, widths_of
from saepipe.evaluate.report.cached import QUANTILES, CacheFacts, Norms
from saepipe.evaluate.report.chart import Chart, Section, Value, slug
from saepipe.evaluate.report.charts.drawing import COLOURS, Record, Series, Tables, altair, quantity, rounded, tooltip
from saepipe.evaluate.report.story import Story

MASSIVE = 10.0
"""A channel is massive if its root mean square is above this multiple of the median channel's."""
_MOST_NAMED = 8
_MOST_POINTS = 200
_TEXT = (
    "The cache that the runs were trained on. Norms are of training rows, without BOS. In many models, a few massive "
    "channels dominate the residual stream."
)


def section(story: Story) -> Section:
    """Returns the section, with charts of each cache that can be read."""
    charts: list[Chart] = []
    absent: list[str] = []
    facts = [cache for cache in story.caches.values() if not isinstance(cache, str)]
    for cache in facts:
        suffix = f"-{cache.fingerprint[:6]}" if len(facts) > 1 else ""
        charts += _charts(cache, suffix)
        if not cache.paces:
            absent.append("No throughput: the harvest's log has no two successive lines of one process.")
    absent += [
        f"{why[:1].upper()}{why[1:]}: no throughput, norms or channels."
        for why in story.caches.values()
        if isinstance(why, str)
    ]
    text = " ".join([_TEXT, *map(_size, facts)]) if charts else ""
    return Section("harvest", "Harvest", text, tuple(charts), tuple(absent))


def _size(cache: CacheFacts) -> str:
    hooks = cache.attributes["hooks"]
    megabytes = 2 * sum(widths_of(cache.attributes).values()) * cache.num_tokens / 1e6
    return (
        f"{cache.path.name}: {cache.num_tokens:,} training tokens at {', '.join(hooks)}; "
        f"{cache.num_bytes / 1e6:,.0f} MB on disk with the held-out part (the training activations alone are "
        f"{megabytes:,.0f} MB in bfloat16)."
    )


def _charts(cache: CacheFacts, suffix: str) -> Iterator[Chart]:
    if cache.paces:
        yield _throughput(cache, suffix)
    for hook, norms in cache.norms.items():
        hook_suffix = suffix + (f"-{slug(hook)}" if len(cache.norms) > 1 else "")
        yield _norms(norms, hook_suffix)
        yield _channels(hook, cache.channels[hook], hook_suffix)


def _throughput(cache: CacheFacts, suffix: str) -> Chart:
    alt, tables = altair(), Tables()
    seconds, rows = sum(pace.seconds for pace in cache.paces), sum(pace.rows for pace in cache.paces)
    text = f"Tokens per second between lines of the harvest's log, one per pool of rows; {rows / seconds:,.0f} overall."
    every = -(-len(cache.paces) // _MOST_POINTS)
    values: list[tuple[Value, ...]] = [
        (pace.split, pace.total, rounded(pace.seconds), rounded(pace.tokens_per_second))
        for pace in cache.paces[::every]
    ]
    records: list[Record] = [{"split": row[0], "x": row[1], "y": row[3]} for row in values]
    chart = (
        alt.Chart(tables.add(records))
        .mark_line(point={"filled": True, "size": 50}, strokeWidth=1.5)
        .encode(
            x=alt.X("x:Q", title="tokens so far", axis=alt.Axis(format="~s", tickCount=5), scale=alt.Scale(zero=False)),
            y=alt.Y(
                "y:Q", title="tokens per second", axis=alt.Axis(format="~s", tickCount=5), scale=alt.Scale(zero=True)
            ),
            color=Series("split", ("train", "heldout")).colour,
            tooltip=tooltip({"split:N": "split", "x:Q": "tokens so far", "y:Q": "tokens per second"}),
        )
    )
    columns = ("split", "tokens so far", "seconds", "tokens per second")
    return Chart(
        f"harvest-throughput{suffix}", "Throughput", text, tables.spec(chart, text, 180), columns, tuple(values)
    )


def _norms(norms: Norms, suffix: str) -> Chart:
    alt, tables = altair(), Tables()
    median = norms.quantiles[:, QUANTILES.index(0.5)]
    text = (
        f"Norm of activations at {norms.hook} by position in the window: the median, and bands from the 25th to the "
        f"75th and from the 5th to the 95th percentile. The median goes from {median[0]:.3g} at position "
        f"{norms.first[0]} to {median[-1]:.3g} at position {norms.last[-1]}."
    )
    names = [f"p{quantile * 100:g}" for quantile in QUANTILES]
    middle = (norms.first + norms.last) / 2
    records: list[Record] = [
        {"x": float(x), **dict(zip(names, quantiles, strict=True)), "n": int(count)}
        for x, quantiles, count in zip(middle, norms.quantiles.tolist(), norms.counts, strict=True)
    ]
    x = quantity("X", "x", "position", middle.tolist())
    base = alt.Chart(tables.add(records)).encode(x=x)
    y = quantity("Y", "p50", "norm", norms.quantiles.ravel().tolist())
    hover = tooltip({"x:Q": "position", **{f"{name}:Q": name for name in names}, "n:Q": "rows"})
    band = base.mark_area(color=COLOURS[0], opacity=0.2)
    chart = alt.layer(
        band.encode(y=alt.Y("p5:Q", title="norm"), y2=alt.Y2("p95:Q")),
        band.encode(y=alt.Y("p25:Q", title="norm"), y2=alt.Y2("p75:Q")),
        base.mark_line(color=COLOURS[0], strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=60, opacity=0).encode(y=y, tooltip=hover),
    )
    rows = [
        (int(first), int(last), *map(rounded, quantiles), int(count))
        for first, last, quantiles, count in zip(
            norms.first, norms.last, norms.quantiles.tolist(), norms.counts, strict=True
        )
    ]
    columns = ("first position", "last position", *names, "rows")
    return Chart(
        f"harvest-norms{suffix}", "Norms by position", text, tables.spec(chart, text, 220), columns, tuple(rows)
    )


def _channels(hook: str, stats: ActivationStats, suffix: str) -> Chart:
    alt, tables = altair(), Tables()
    rms = np.sqrt(stats.mean**2 + stats.std**2)
    order = np.argsort(-rms, kind="stable")
    massive = [int(channel) for channel in order if rms[channel] > MASSIVE * np.median(rms)]
    text = (
        f"Scale of each channel at {hook}: its root mean square (rms) and its standard deviation, sorted by rms. "
        f"{_describe(massive, rms)}"
    )
    columns = ("rank", "channel", "rms", "std", "mean", "absmax")
    ranks = np.unique(np.geomspace(1, len(order), _MOST_POINTS).round().astype(int))
    figures = np.stack([rms, stats.std, stats.mean, stats.absmax], axis=1)
    rows = [(rank, int(order[rank - 1]), *map(rounded, figures[order[rank - 1]].tolist())) for rank in ranks.tolist()]
    records: list[Record] = [dict(zip(columns, row, strict=True)) for row in rows]
    scales = [value for record in records for value in (record["rms"], record["std"])]
    x = quantity("X", "rank", "rank", [float(rank) for rank in ranks])
    kinds = Series("kind", ("rms", "std")).colour
    points = alt.Chart(tables.add(records)).transform_fold(["rms", "std"], as_=["kind", "value"])
    hover = tooltip({f"{column}:Q": column for column in columns})
    points = points.encode(x=x, y=quantity("Y", "value", "scale", scales), color=kinds, tooltip=hover)
    layers = [points.mark_line(strokeWidth=1), points.mark_point(filled=True, size=22, opacity=1)]
    if named := [record for record in records if record["channel"] in massive[:_MOST_NAMED]]:
        text_marks = alt.Chart(tables.add(named)).mark_text(align="left", dx=7, dy=-7, fontSize=11)
        layers.append(text_marks.encode(x=x, y=alt.Y("rms:Q"), text="channel:N"))
    spec = tables.spec(alt.layer(*layers), text, 220)
    return Chart(f"harvest-channels{suffix}", "Scales of channels", text, spec, columns, tuple(rows))


def _describe(massive: list[int], rms: np.ndarray) -> str:
    """Names the massive channels in a sentence."""
    limit = f"above {MASSIVE:g} times the median channel's"
    if not massive:
        return f"No channel's rms is {limit}."
    median = float(np.median(rms))
    named = ", ".join(f"{channel} ({rms[channel] / median:.0f} times)" for channel in massive[:_MOST_NAMED])
    rest = f" and {len(massive) - _MOST_NAMED} more" if len(massive) > _MOST_NAMED else ""
    return f"Massive channels, with an rms {limit}: {named}{rest}."
