package enum Ingress {}
