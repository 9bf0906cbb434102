// Attention forward for software drivers: ROWS queries of one head a thread, in registers; keys KEYS at a time with a
// running maximum and sum. Values: W (4: vectors, 1: scalars) ROWS KEYS SG D.
// SG = 0: each thread loads keys and values for itself. SG > 0 is the adapter's subgroup size, the same for every subgroup:
// a workgroup is one subgroup on one head, whose threads each load a part of the keys and values and hand it round.
// Uniforms: threads (with SG: workgroups) turns (ROWS, or for one row D / W: for loops that no compiler unrolls) heads queries
// keys q_width k_width v_width q_offset k_offset v_offset scale causal.
//% set SG = SG if SG is defined else 0
//% set KEYS = KEYS if KEYS is defined else (4 if SG else 1)
//% set E = "vec4<f32>" if W == 4 else "f32"
//% set at = "_at4" if W == 4 else "_at"
//% set put = "_put4" if W == 4 else "_put"
//% set C = D // W
//% set parts = (KEYS * C + SG - 1) // SG if SG else KEYS * C
//% macro q_row(t)
((sample * p.queries + {{ t }}) * p.q_width + p.q_offset + head * {{ D }}u) / {{ W }}u
//% endmacro
fn product(a: {{ E }}, b: {{ E }}) -> f32 {
    //% if W == 4
    return dot(a, b);
    //% else
    return a * b;
    //% endif
}
@compute @workgroup_size({{ SG or 8 }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    //% if SG
    let thread = linear_workgroup(w, nw);
    //% else
    let thread = linear_workgroup(w, nw) * 8u + lane;
    //% endif
    if thread >= p.threads { return; }
    //% set span = ROWS * ([SG, 1] | max)
    let tiles = (p.queries + {{ span - 1 }}u) / {{ span }}u;
    let head_of = thread / tiles;
    //% if SG
    let first = (thread - head_of * tiles) * {{ span }}u + lane * {{ ROWS }}u;
    //% else
    let first = (thread - head_of * tiles) * {{ ROWS }}u;
    //% endif
    let sample = head_of / p.heads;
    let head = head_of - sample * p.heads;
    //% if not SG
    // A driver without subgroups compiles fast, and reads what never changes faster than what moves up.
    //% endif
    //% for r in range(ROWS)
    let t{{ r }} = min(first + {{ r }}u, p.queries - 1u);
    //% if not SG
    let from{{ r }} = {{ q_row("t" ~ r) }};
    //% endif
    //% for c in range(C)
    //% if SG
    var q{{ r }}_{{ c }} = {{ E }}(0.0);
    //% else
    let q{{ r }}_{{ c }} = q{{ at }}(from{{ r }} + {{ c }}u) * p.scale;
    //% endif
    var o{{ r }}_{{ c }} = {{ E }}(0.0);
    //% endfor
    var m{{ r }} = -3.0e38;
    var l{{ r }} = 0.0;
    //% endfor
    // Values move up as they are loaded, by rows, or by the columns of a lone row: unrolled, loads and stores are most of what
    // a driver compiles.
    //% if SG and ROWS > 1
    for (var r = 0u; r < p.turns; r++) {
        let from_ = {{ q_row("min(first + r, p.queries - 1u)") }};
        //% for c in range(C)
        //% for r in range(ROWS - 1)
        q{{ r }}_{{ c }} = q{{ r + 1 }}_{{ c }};
        //% endfor
        q{{ ROWS - 1 }}_{{ c }} = q{{ at }}(from_ + {{ c }}u) * p.scale;
        //% endfor
    }
    //% elif SG
    let q_first = {{ q_row("t0") }};
    for (var c = 0u; c < p.turns; c++) {
        //% for c in range(C - 1)
        q0_{{ c }} = q0_{{ c + 1 }};
        //% endfor
        q0_{{ C - 1 }} = q{{ at }}(q_first + c) * p.scale;
    }
    //% endif
    var last = p.keys;
    if p.causal > 0u { last = min({{ "first - lane * " ~ ROWS ~ "u" if SG else "first" }} + {{ span }}u, p.keys); }
    // Row r sees the keys before end{r}.
    //% for r in range(ROWS)
    let end{{ r }} = select(p.keys, min(t{{ r }} + 1u, p.keys), p.causal > 0u);
    //% endfor
    let k_first = (sample * p.keys * p.k_width + p.k_offset + head * {{ D }}u) / {{ W }}u;
    let v_first = (sample * p.keys * p.v_width + p.v_offset + head * {{ D }}u) / {{ W }}u;
    let k_step = p.k_width / {{ W }}u;
    let v_step = p.v_width / {{ W }}u;
    //% if SG
    // Part i of a block of keys: element lane + i * SG of its KEYS x C.
    //% for i in range(parts)
    let part{{ i }} = min(lane + {{ i * SG }}u, {{ KEYS * C - 1 }}u);
    let key{{ i }} = part{{ i }} / {{ C }}u;
    let column{{ i }} = part{{ i }} - key{{ i }} * {{ C }}u;
    //% endfor
    //% endif
    for (var key = 0u; key < last; key += {{ KEYS }}u) {
        //% for i in range(parts)
        //% if SG
        let row{{ i }} = min(key + key{{ i }}, p.keys - 1u);
        let k{{ i }} = k{{ at }}(k_first + row{{ i }} * k_step + column{{ i }});
        let v{{ i }} = v{{ at }}(v_first + row{{ i }} * v_step + column{{ i }});
        //% else
        let row{{ i }} = min(key + {{ i // C }}u, p.keys - 1u);
        let k{{ i }} = k{{ at }}(k_first + row{{ i }} * k_step + {{ i % C }}u);
        //% endif
        //% endfor
        //% for r in range(ROWS)
        //% for kk in range(KEYS)
        var s{{ r }}_{{ kk }} = 0.0;
        //% endfor
        //% endfor
        //% for kk in range(KEYS)
        //% for c in range(C)
        {
            //% set i = kk * C + c
            let k = {{ "subgroupBroadcast(k" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "k" ~ i }};
            //% for r in range(ROWS)
            s{{ r }}_{{ kk }} += product(q{{ r }}_{{ c }}, k);
            //% endfor
        }
        //% endfor
        //% endfor
        //% for r in range(ROWS)
        //% for kk in range(KEYS)
        let seen{{ r }}_{{ kk }} = key + {{ kk }}u < end{{ r }};
        //% endfor
        {
            //% set best = namespace(text="m" ~ r)
            //% for kk in range(KEYS)
            s{{ r }}_{{ kk }} = select(-3.0e38, s{{ r }}_{{ kk }}, seen{{ r }}_{{ kk }});
            //% set best.text = "max(" ~ best.text ~ ", s" ~ r ~ "_" ~ kk ~ ")"
            //% endfor
            let largest = {{ best.text }};
            let shrink = exp(m{{ r }} - largest);
            m{{ r }} = largest;
            l{{ r }} *= shrink;
            //% for kk in range(KEYS)
            s{{ r }}_{{ kk }} = select(0.0, exp(s{{ r }}_{{ kk }} - largest), seen{{ r }}_{{ kk }});
            l{{ r }} += s{{ r }}_{{ kk }};
            //% endfor
            //% for c in range(C)
            o{{ r }}_{{ c }} *= shrink;
            //% endfor
        }
        //% endfor
        //% for c in range(C)
        {
            //% for kk in range(KEYS)
            //% set i = kk * C + c
            //% if SG
            let e{{ kk }} = subgroupBroadcast(v{{ i // SG }}, {{ i % SG }}u);
            //% else
            let e{{ kk }} = v{{ at }}(v_first + row{{ i }} * v_step + {{ c }}u);
            //% endif
            //% endfor
            //% for r in range(ROWS)
            //% for kk in range(KEYS)
            o{{ r }}_{{ c }} += s{{ r }}_{{ kk }} * e{{ kk }};
            //% endfor
            //% endfor
        }
        //% endfor
    }
    //% if ROWS > 1
    let end = min(first + {{ ROWS }}u, p.queries);
    for (var t = first; t < end; t++) {
        let ob = ((sample * p.queries + t) * p.heads + head) * {{ C }}u;
        //% for c in range(C)
        out{{ put }}(ob + {{ c }}u, o0_{{ c }} / l0);
        //% endfor
        lse_put((sample * p.heads + head) * p.queries + t, m0 + log(l0));
        //% for r in range(ROWS - 1)
        m{{ r }} = m{{ r + 1 }};
        l{{ r }} = l{{ r + 1 }};
        //% for c in range(C)
        o{{ r }}_{{ c }} = o{{ r + 1 }}_{{ c }};
        //% endfor
        //% endfor
    }
    //% else
    if first < p.queries {
        lse_put((sample * p.heads + head) * p.queries + first, m0 + log(l0));
        for (var c = 0u; c < p.turns; c++) {
            out{{ put }}(((sample * p.queries + first) * p.heads + head) * {{ C }}u + c, o0_0 / l0);
            //% for c in range(C - 1)
            o0_{{ c }} = o0_{{ c + 1 }};
            //% endfor
        }
    }
    //% endif
}
