// Attention forward for software drivers: ROWS queries of one head a thread, in registers; keys one by one with a running
// maximum and sum. Values: W (4: vectors, 1: scalars) ROWS D causal.
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
    let tiles = (p.queries + {{ ROWS - 1 }}u) / {{ ROWS }}u;
    let head_of = thread / tiles;
    let first = (thread - head_of * tiles) * {{ ROWS }}u;
    let sample = head_of / p.heads;
    let head = head_of - sample * p.heads;
    //% for r in range(ROWS)
    let t{{ r }} = min(first + {{ r }}u, p.queries - 1u);
    let q{{ r }} = ((sample * p.queries + t{{ r }}) * p.q_width + p.q_offset + head * {{ D }}u) / {{ W }}u;
    //% for c in range(C)
    let q{{ r }}_{{ c }} = q{{ at }}(q{{ r }} + {{ c }}u) * p.scale;
    var o{{ r }}_{{ c }} = {{ E }}(0.0);
    //% endfor
    var m{{ r }} = -3.0e38;
    var l{{ r }} = 0.0;
    //% endfor
    //% if causal
    let last = min(first + {{ ROWS }}u, p.keys);
    //% else
    let last = p.keys;
    //% endif
    for (var key = 0u; key < last; key++) {
        let kb = ((sample * p.keys + key) * p.k_width + p.k_offset + head * {{ D }}u) / {{ W }}u;
        let vb = ((sample * p.keys + key) * p.v_width + p.v_offset + head * {{ D }}u) / {{ W }}u;
        //% for r in range(ROWS)
        var s{{ r }} = 0.0;
        //% endfor
        //% for c in range(C)
        {
            let k = k{{ at }}(kb + {{ c }}u);
            //% for r in range(ROWS)
            s{{ r }} += product(q{{ r }}_{{ c }}, k);
            //% endfor
        }
        //% endfor
        //% for r in range(ROWS)
        //% if causal
        let seen{{ r }} = key <= t{{ r }};
        s{{ r }} = select(-3.0e38, s{{ r }}, seen{{ r }});
        //% endif
        if s{{ r }} > m{{ r }} {
            let shrink = exp(m{{ r }} - s{{ r }});
            m{{ r }} = s{{ r }};
            l{{ r }} *= shrink;
            //% for c in range(C)
            o{{ r }}_{{ c }} *= shrink;
            //% endfor
        }
        //% if causal
        let e{{ r }} = select(0.0, exp(s{{ r }} - m{{ r }}), seen{{ r }});
        //% else
        let e{{ r }} = exp(s{{ r }} - m{{ r }});
        //% endif
        l{{ r }} += e{{ r }};
        //% endfor
        //% for c in range(C)
        {
            let v = v{{ at }}(vb + {{ c }}u);
            //% for r in range(ROWS)
            o{{ r }}_{{ c }} += e{{ r }} * v;
            //% endfor
        }
        //% endfor
    }
    //% for r in range(ROWS)
    if first + {{ r }}u < p.queries {
        let ob = ((sample * p.queries + t{{ r }}) * p.heads + head) * {{ C }}u;
        //% for c in range(C)
        out{{ put }}(ob + {{ c }}u, o{{ r }}_{{ c }} / l{{ r }});
        //% endfor
        lse_put((sample * p.heads + head) * p.queries + t{{ r }}, m{{ r }} + log(l{{ r }}));
    }
    //% endfor
}
