// What a thread of group norm keeps of its columns. Values: stage W, and STRIDE, the vectors that a group has in `stats`.
//% if stage in ["apply", "sums"]
struct Constants {
    shift: {{ V }},
    // The mean, less the shift.
    mean: {{ V }},
    rstd: {{ V }},
    gamma: {{ V }},
    beta: {{ V }},
}
fn constants(sample: u32, column: u32) -> Constants {
    var c: Constants;
    //% if W == 4
    //% for k in range(4)
    let s{{ k }} = stats_at4({{ STRIDE }}u * (sample * p.groups + (4u * column + {{ k }}u) / p.per));
    c.shift[{{ k }}] = s{{ k }}.x;
    c.mean[{{ k }}] = s{{ k }}.y;
    //% if moments
    c.rstd[{{ k }}] = inverseSqrt(s{{ k }}.z / s{{ k }}.w + p.eps);
    //% else
    c.rstd[{{ k }}] = s{{ k }}.z;
    //% endif
    //% endfor
    //% else
    let s = stats_at4({{ STRIDE }}u * (sample * p.groups + column / p.per));
    c.shift = s.x;
    c.mean = s.y;
    //% if moments
    c.rstd = inverseSqrt(s.z / s.w + p.eps);
    //% else
    c.rstd = s.z;
    //% endif
    //% endif
    c.gamma = gamma{{ at }}(column);
    c.beta = beta{{ at }}(column);
    return c;
}
//% endif
