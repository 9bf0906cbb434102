// Group norm: a thread takes one column, or four side by side, of a block of rows. Sizes count such columns.
// partial: shift, mean beyond it and centred squares of the block, column by column.
// join: those of a group become its first value, the mean beyond it and 1 / standard deviation; TEAM threads a group.
// group: the same as both in one dispatch, for groups of few values: TEAM threads walk a group's rows twice.
// apply: the affine result. Values: stage W x2 silu TEAM WG moments (statistics are centred squares and a count in
// place of 1 / standard deviation).
//% set V = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% set STRIDE = 1
//% include "lib/group_norm.wgsl"
//% if stage == "group"
//% include "lib/team.wgsl"
// Column `column` of row `row`.
fn value(row: u32, column: u32) -> {{ V }} {
    //% if x2
    if column >= p.columns1 { return x2{{ at }}(row * p.columns2 + column - p.columns1); }
    //% endif
    return x{{ at }}(row * p.columns1 + column);
}
//% macro walk_group(expression)
    // Sums of sums: one long sum would lose digits.
    for (var top = first + team_lane(lane); top < last; top += {{ 64 * TEAM }}u) {
        var part = {{ V }}(0.0);
        for (var row = top; row < min(top + {{ 64 * TEAM }}u, last); row += {{ TEAM }}u) {
            //% for j in range(PER)
            let d{{ j }} = value(row, column + {{ j }}u) - centre;
            //% endfor
            //% for j in range(PER)
            part += {{ expression | replace("d", "d" ~ j) }};
            //% endfor
        }
        total += part;
    }
//% endmacro
//% macro team_total()
{{ "team_sum(lane, total.x + total.y + total.z + total.w)" if W == 4 else "team_sum(lane, total)" }}
//% endmacro
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = team(w, nw, lane);
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let column = (i - sample * p.groups) * {{ PER }}u;
    let first = sample * p.rows;
    let last = first + p.rows;
    let shift = value(first, column){{ ".x" if W == 4 else "" }};
    var centre = {{ V }}(shift);
    var total = {{ V }}(0.0);
    {{ walk_group("d") }}
    let count = f32(p.rows * p.per);
    let mean = {{ team_total() }} / count;
    centre = {{ V }}(shift + mean);
    // What the sum lost to rounding: the mean, as far as f32 tells it from the shift, is not exactly the centre.
    let off = (centre{{ ".x" if W == 4 else "" }} - shift) - mean;
    total = {{ V }}(0.0);
    {{ walk_group("d * d") }}
    let squares = max({{ team_total() }} - count * off * off, 0.0);
    if team_lane(lane) > 0u { return; }
    //% if moments
    stats_put4(i, vec4<f32>(shift, mean, squares, count));
    //% else
    stats_put4(i, vec4<f32>(shift, mean, inverseSqrt(squares / count + p.eps), 0.0));
    //% endif
}
//% elif stage == "walk"
// walk: group with loops along a row (loads that are spelt out take long to compile): one kernel for all sizes, with and
// without x2, for statistics and moments; with `applies`, for statistics and the affine result.
//% include "lib/team.wgsl"
//% macro walk_columns(x, from, end)
                for (; column < {{ end }}; column++) {
                    let d = {{ x }}{{ at }}({{ from }} + column) - centre;
                    part += select(d, d * d, pass_ > 0u);
                }
//% endmacro
//% macro apply_columns(x, from, columns, end)
    for (; column < {{ end }}; column++) {
        let gamma = gamma{{ at }}(column);
        let beta = beta{{ at }}(column);
        for (var row = first; row < last; row++) {
            let z = ({{ x }}{{ at }}(row * {{ columns }} + column - {{ from }}) - shift - mean) * rstd * gamma + beta;
            y{{ put }}(row * (p.columns1 + p.columns2) + column, select(z, z / (1.0 + exp(-z)), p.silu > 0u));
        }
    }
//% endmacro
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = team(w, nw, lane);
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let begin = (i - sample * p.groups) * p.vectors;
    let end = begin + p.vectors;
    // Columns before it lie in x, the others in x2.
    let middle = clamp(p.columns1, begin, end);
    let first = sample * p.rows;
    let last = first + p.rows;
    var shift = 0.0;
    if begin < p.columns1 {
        shift = x{{ at }}(first * p.columns1 + begin){{ ".x" if W == 4 else "" }};
    } else {
        shift = x2{{ at }}(first * p.columns2 + begin - p.columns1){{ ".x" if W == 4 else "" }};
    }
    let count = f32(p.rows * p.per);
    var centre = shift;
    var mean = 0.0;
    var squares = 0.0;
    // First the mean, then the squares: a loop whose bound is a uniform is written once.
    for (var pass_ = 0u; pass_ < p.passes; pass_++) {
        var total = {{ V }}(0.0);
        // Sums of sums: one long sum would lose digits.
        for (var top = first + team_lane(lane); top < last; top += {{ 64 * TEAM }}u) {
            var part = {{ V }}(0.0);
            for (var row = top; row < min(top + {{ 64 * TEAM }}u, last); row += {{ TEAM }}u) {
                var column = begin;
                {{ walk_columns("x", "row * p.columns1", "middle") }}
                {{ walk_columns("x2", "row * p.columns2 - p.columns1", "end") }}
            }
            total += part;
        }
        let sum = {{ "team_sum(lane, total.x + total.y + total.z + total.w)" if W == 4 else "team_sum(lane, total)" }};
        if pass_ == 0u {
            mean = sum / count;
            centre = shift + mean;
        } else {
            squares = sum;
        }
    }
    // What the sum lost to rounding: the mean, as far as f32 tells it from the shift, is not exactly the centre.
    let off = (centre - shift) - mean;
    squares = max(squares - count * off * off, 0.0);
    let rstd = inverseSqrt(squares / count + p.eps);
    //% if applies
    stats_put4(i, vec4<f32>(shift, mean, rstd, 0.0));
    var column = begin;
    {{ apply_columns("x", "0u", "p.columns1", "middle") }}
    {{ apply_columns("x2", "p.columns1", "p.columns2", "end") }}
    //% else
    if team_lane(lane) > 0u { return; }
    stats_put4(i, select(vec4<f32>(shift, mean, rstd, 0.0), vec4<f32>(shift, mean, squares, count), p.moments > 0u));
    //% endif
}
//% elif stage == "join"
//% include "lib/team.wgsl"
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = team(w, nw, lane);
    if i >= p.samples * p.groups { return; }
    let sample = i / p.groups;
    let first = sample * p.blocks * p.channels + (i - sample * p.groups) * p.per;
    let size = p.samples * p.blocks * p.channels;
    // Means count from the first value, so that they keep their digits where the mean is far above the spread. (A mean
    // as an f32 and its rounding error would do as well, but compilers simplify a two-sum away.)
    let shift = partial_at(first);
    var sum = 0.0;
    for (var e = team_lane(lane); e < p.blocks * p.per; e += {{ TEAM }}u) {
        let block = e / p.per;
        let at = first + block * p.channels + e - block * p.per;
        let count = f32(min(p.block, p.rows - block * p.block));
        sum += count * (partial_at(at) - shift + partial_at(size + at));
    }
    let total = f32(p.rows * p.per);
    let mean = team_sum(lane, sum) / total;
    var squares = 0.0;
    for (var e = team_lane(lane); e < p.blocks * p.per; e += {{ TEAM }}u) {
        let block = e / p.per;
        let at = first + block * p.channels + e - block * p.per;
        let count = f32(min(p.block, p.rows - block * p.block));
        let d = partial_at(at) - shift + partial_at(size + at) - mean;
        squares += partial_at(2u * size + at) + count * d * d;
    }
    squares = team_sum(lane, squares);
    if team_lane(lane) > 0u { return; }
    //% if moments
    stats_put4(i, vec4<f32>(shift, mean, squares, total));
    //% else
    stats_put4(i, vec4<f32>(shift, mean, inverseSqrt(squares / total + p.eps), 0.0));
    //% endif
}
//% else
//% macro walk(x, row_width, column)
{
    //% if stage == "partial"
    let shift = {{ x }}{{ at }}(first * {{ row_width }} + {{ column }});
    var sum = {{ V }}(0.0);
    var squares = {{ V }}(0.0);
    for (var row = first + 1u; row < last; row++) {
        let d = {{ x }}{{ at }}(row * {{ row_width }} + {{ column }}) - shift;
        sum += d;
        squares += d * d;
    }
    let mean = sum / f32(last - first);
    let size = p.samples * p.blocks * p.columns;
    partial{{ put }}(i, shift);
    partial{{ put }}(size + i, mean);
    partial{{ put }}(2u * size + i, max(squares - sum * mean, {{ V }}(0.0)));
    //% else
    for (var row = first; row < last; row++) {
        let v = {{ x }}{{ at }}(row * {{ row_width }} + {{ column }});
        let z = (v - c.shift - c.mean) * c.rstd * c.gamma + c.beta;
        //% if silu
        y{{ put }}(row * p.columns + column, z / (1.0 + exp(-z)));
        //% else
        y{{ put }}(row * p.columns + column, z);
        //% endif
    }
    //% endif
}
//% endmacro
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, nw) * 64u + lane;
    if i >= p.samples * p.blocks * p.columns { return; }
    let piece = i / p.columns;
    let column = i - piece * p.columns;
    let sample = piece / p.blocks;
    let first = sample * p.rows + (piece - sample * p.blocks) * p.block;
    let last = min(first + p.block, (sample + 1u) * p.rows);
    //% if stage == "apply"
    let c = constants(sample, column);
    //% endif
    //% if x2
    if column >= p.columns1 {
        {{ walk("x2", "p.columns2", "column - p.columns1") }}
        return;
    }
    //% endif
    {{ walk("x", "p.columns1", "column") }}
}
//% endif
