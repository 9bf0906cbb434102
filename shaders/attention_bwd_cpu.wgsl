// Attention backward for software drivers. Values: stage W ROWS D causal.
// delta: sum of o * dout per query. dq: ROWS queries a thread, over keys. dkv: ROWS keys a thread, over queries.
//% set E = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% set C = D // W
fn product(a: {{ E }}, b: {{ E }}) -> f32 {
    //% if W == 4
    return dot(a, b);
    //% else
    return a * b;
    //% endif
}
@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let thread = linear_workgroup(w, nw) * 8u + lane;
    if thread >= p.threads { return; }
    //% set tokens = "p.keys" if stage == "dkv" else "p.queries"
    let tiles = ({{ tokens }} + {{ ROWS - 1 }}u) / {{ ROWS }}u;
    let head_of = thread / tiles;
    let first = (thread - head_of * tiles) * {{ ROWS }}u;
    let sample = head_of / p.heads;
    let head = head_of - sample * p.heads;
    let statistics = (sample * p.heads + head) * p.queries;
    //% for r in range(ROWS)
    let t{{ r }} = min(first + {{ r }}u, {{ tokens }} - 1u);
    let b{{ r }} = ((sample * {{ tokens }} + t{{ r }}) * p.heads + head) * {{ C }}u;
    //% endfor
    //% if stage == "delta"
    var sum = 0.0;
    for (var c = 0u; c < {{ C }}u; c++) { sum += product(o{{ at }}(b0 + c), dout{{ at }}(b0 + c)); }
    delta_put(statistics + t0, sum);
    //% elif stage == "dq"
    //% for r in range(ROWS)
    let lse{{ r }} = lse_at(statistics + t{{ r }});
    let delta{{ r }} = delta_at(statistics + t{{ r }});
    //% for c in range(C)
    let q{{ r }}_{{ c }} = q{{ at }}(b{{ r }} + {{ c }}u);
    let d{{ r }}_{{ c }} = dout{{ at }}(b{{ r }} + {{ c }}u);
    var g{{ r }}_{{ c }} = {{ E }}(0.0);
    //% endfor
    //% endfor
    //% if causal
    let last = min(first + {{ ROWS }}u, p.keys);
    //% else
    let last = p.keys;
    //% endif
    for (var key = 0u; key < last; key++) {
        let kb = ((sample * p.keys + key) * p.heads + head) * {{ C }}u;
        //% for r in range(ROWS)
        var s{{ r }} = 0.0;
        var dp{{ r }} = 0.0;
        //% endfor
        //% for c in range(C)
        let k_{{ c }} = k{{ at }}(kb + {{ c }}u);
        {
            let v = v{{ at }}(kb + {{ c }}u);
            //% for r in range(ROWS)
            s{{ r }} += product(q{{ r }}_{{ c }}, k_{{ c }});
            dp{{ r }} += product(d{{ r }}_{{ c }}, v);
            //% endfor
        }
        //% endfor
        //% for r in range(ROWS)
        var ds{{ r }} = exp(p.scale * s{{ r }} - lse{{ r }}) * (dp{{ r }} - delta{{ r }}) * p.scale;
        //% if causal
        ds{{ r }} = select(0.0, ds{{ r }}, key <= t{{ r }});
        //% endif
        //% for c in range(C)
        g{{ r }}_{{ c }} += ds{{ r }} * k_{{ c }};
        //% endfor
        //% endfor
    }
    //% for r in range(ROWS)
    if first + {{ r }}u < p.queries {
        //% for c in range(C)
        dq{{ put }}(b{{ r }} + {{ c }}u, g{{ r }}_{{ c }});
        //% endfor
    }
    //% endfor
    //% else
    //% for r in range(ROWS)
    //% for c in range(C)
    let k{{ r }}_{{ c }} = k{{ at }}(b{{ r }} + {{ c }}u);
    let v{{ r }}_{{ c }} = v{{ at }}(b{{ r }} + {{ c }}u);
    var gk{{ r }}_{{ c }} = {{ E }}(0.0);
    var gv{{ r }}_{{ c }} = {{ E }}(0.0);
    //% endfor
    //% endfor
    //% if causal
    let start = first;
    //% else
    let start = 0u;
    //% endif
    for (var query = start; query < p.queries; query++) {
        let qb = ((sample * p.queries + query) * p.heads + head) * {{ C }}u;
        let lse = lse_at(statistics + query);
        let delta = delta_at(statistics + query);
        //% for r in range(ROWS)
        var s{{ r }} = 0.0;
        var dp{{ r }} = 0.0;
        //% endfor
        //% for c in range(C)
        let q_{{ c }} = q{{ at }}(qb + {{ c }}u);
        let d_{{ c }} = dout{{ at }}(qb + {{ c }}u);
        //% for r in range(ROWS)
        s{{ r }} += product(q_{{ c }}, k{{ r }}_{{ c }});
        dp{{ r }} += product(d_{{ c }}, v{{ r }}_{{ c }});
        //% endfor
        //% endfor
        //% for r in range(ROWS)
        //% if causal
        let e{{ r }} = select(0.0, exp(p.scale * s{{ r }} - lse), query >= t{{ r }});
        //% else
        let e{{ r }} = exp(p.scale * s{{ r }} - lse);
        //% endif
        let ds{{ r }} = e{{ r }} * (dp{{ r }} - delta) * p.scale;
        //% for c in range(C)
        gk{{ r }}_{{ c }} += ds{{ r }} * q_{{ c }};
        gv{{ r }}_{{ c }} += e{{ r }} * d_{{ c }};
        //% endfor
        //% endfor
    }
    //% for r in range(ROWS)
    if first + {{ r }}u < p.keys {
        //% for c in range(C)
        dk{{ put }}(b{{ r }} + {{ c }}u, gk{{ r }}_{{ c }});
        dv{{ put }}(b{{ r }} + {{ c }}u, gv{{ r }}_{{ c }});
        //% endfor
    }
    //% endfor
    //% endif
}
