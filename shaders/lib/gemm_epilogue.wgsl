    // Epilogue of a TM x TN register tile: c{i}_{j} at rows m{i} (stored where m_first + i < p.m), columns n{j}.
    //% set cols = (TN // 2) if geglu else TN
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        //% for j in range(TN)
        let u{{ j }} = up_at(n{{ j }} * p.rank + r);
        //% endfor
        //% if SG
        //% for i in range(loads)
        let g{{ i }} = p.lora_scale * hidden_at(from{{ i }} * p.rank + r);
        //% endfor
        //% endif
        //% for i in range(TM)
        //% if SG
        let h{{ i }} = subgroupBroadcast(g{{ i // SG }}, {{ i % SG }}u);
        //% else
        let h{{ i }} = p.lora_scale * hidden_at(m{{ i }} * p.rank + r);
        //% endif
        //% for j in range(TN)
        c{{ i }}_{{ j }} += h{{ i }} * u{{ j }};
        //% endfor
        //% endfor
    }
    //% endif
    //% for j in range(TN)
    //% if bias
    let bias{{ j }} = bias_at(n{{ j }});
    //% endif
    //% endfor
    //% for i in range(TM)
    if m_first + {{ i }}u < p.m {
        let row = batch * p.out_batch + m{{ i }} * p.n;
        //% if add == "sample"
        let sample = (m{{ i }} / p.rows_per_sample) * p.add_stride + p.add_offset;
        //% endif
        //% for j in range(TN)
        var v{{ j }} = p.alpha * c{{ i }}_{{ j }};
        //% if bias
        v{{ j }} += bias{{ j }};
        //% endif
        //% if add == "full" and not out_vec
        v{{ j }} += add_at(row + n{{ j }});
        //% elif add == "sample"
        v{{ j }} += add_at(sample + n{{ j }});
        //% endif
        //% if activation
        v{{ j }} = {{ activation }}(v{{ j }});
        //% endif
        //% endfor
        //% if geglu
        //% for j in range(cols)
        if n_first + {{ j }}u < p.n { out_put(row + n{{ j }}, v{{ j }} * gelu(v{{ j + cols }})); }
        //% endfor
        //% elif out_vec
        //% for v in range(TN // 4)
        if n_first + {{ v * 4 }}u < p.n {
            //% set j = v * 4
            var whole = vec4<f32>(v{{ j }}, v{{ j + 1 }}, v{{ j + 2 }}, v{{ j + 3 }});
            //% if add == "full"
            whole += add_at4((row + n{{ j }}) >> 2u);
            //% endif
            out_put4((row + n{{ j }}) >> 2u, whole);
        }
        //% endfor
        //% else
        //% for j in range(TN)
        if n_first + {{ j }}u < p.n { out_put(row + n{{ j }}, v{{ j }}); }
        //% endfor
        //% endif
    }
    //% endfor
