module wxgate.example/upstream

go 1.26
