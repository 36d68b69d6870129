def test_x(kafka, fresh_topics, redis_server):
    """x"""
    print(fresh_topics())
def test_y(private_kafka, fresh_topics, private_redis):
    """x"""
    b=private_kafka(); print(fresh_topics(2, b.bootstrap)); private_redis()
