module linking

go 1.19
